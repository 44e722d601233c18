package cli

import (
	"fmt"

	"github.com/go-logr/logr"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/podfence/podfence/agent"
)

// logger makes the program's logger, and the libraries' too.
func logger(level, format string) (logr.Logger, error) {
	levels := map[string]zapcore.Level{
		"debug": zapcore.DebugLevel, "info": zapcore.InfoLevel, "warn": zapcore.WarnLevel, "error": zapcore.ErrorLevel,
	}
	at, known := levels[level]
	if !known {
		return logr.Logger{}, fmt.Errorf("--log-level is %q: it must be debug, info, warn or error", level)
	}
	json, err := either("--log-format", format, "text", "json")
	if err != nil {
		return logr.Logger{}, err
	}
	encoder := zap.ConsoleEncoder(func(c *zapcore.EncoderConfig) { c.EncodeTime = zapcore.ISO8601TimeEncoder })
	if json {
		encoder = zap.JSONEncoder(func(c *zapcore.EncoderConfig) { c.EncodeTime = zapcore.RFC3339NanoTimeEncoder })
	}
	log := zap.New(zap.Level(at), zap.StacktraceLevel(zapcore.PanicLevel), encoder)
	ctrl.SetLogger(logr.New(quieter{log.GetSink()}))
	klog.SetLogger(log)
	return log, nil
}

// quieter is a log in which info is debug. It is for controller-runtime, where each server, source
// and controller says that it starts.
type quieter struct{ logr.LogSink }

// Enabled implements logr.LogSink.
func (q quieter) Enabled(level int) bool { return q.LogSink.Enabled(level + 1) }

// Info implements logr.LogSink.
func (q quieter) Info(level int, message string, keysAndValues ...any) {
	q.LogSink.Info(level+1, message, keysAndValues...)
}

// WithValues implements logr.LogSink.
func (q quieter) WithValues(keysAndValues ...any) logr.LogSink {
	return quieter{q.LogSink.WithValues(keysAndValues...)}
}

// WithName implements logr.LogSink.
func (q quieter) WithName(name string) logr.LogSink { return quieter{q.LogSink.WithName(name)} }

// starting are the keys and values of the one line that says what was started.
func starting(o *agent.Options, e *enforcement, c *cniFlags, owns bool) []any {
	source := o.Manifests
	if o.API != nil {
		source = o.API.Host
	}
	about := []any{"version", o.Version, "kernel", release(), "node", o.Node, "source", source, "cni", c.mode}
	if c.mode == "bridge" {
		about = append(about, "routing", c.routing)
	}
	if c.mode != "none" && o.API != nil {
		about = append(about, "peersFirst", c.peersFirst)
	}
	if len(o.LastPodCIDRs) > 0 {
		about = append(about, "lastPodCIDRs", o.LastPodCIDRs)
	}
	about = append(about, "sourceCheck", o.Ruleset.SourceCheck, "podCIDRs", c.podCIDRs, "deny", e.deny, "podToNode", e.podToNode,
		"maxConnectionsPerPod", e.maxConnections, "nflogGroup", e.nflogGroup, "revokedMark", e.revokedMark, "ownsTable", owns)
	if not := notHeld(c.mode, o.Ruleset.SourceCheck); len(not) > 0 {
		about = append(about, "notHeld", not)
	}
	return about
}

// release is the kernel's, as uname -r prints it.
func release() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown: " + err.Error()
	}
	return unix.ByteSliceToString(name.Release[:])
}
