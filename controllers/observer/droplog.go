package observer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/podfence/podfence/api/flows"
)

// What DropLogOptions.To can be, beside the path of a file.
const (
	DropLogOff    = "off"
	DropLogStdout = "stdout"
)

// DropLogOptions say where the drop log goes.
type DropLogOptions struct {
	// To is DropLogOff, DropLogStdout, or the absolute path of a file.
	To string
	// MaxSizeMB is how large the file gets, in megabytes (2^20 octets), before it becomes an old one. MaxFiles
	// is how many old ones are kept beside it.
	MaxSizeMB, MaxFiles int
	// Wants reports whether a namespace asks for the denials of its pods' packets, which go to standard output
	// if To is DropLogOff. Nil: none does. It may be called at any time, and must not wait for long.
	Wants func(namespace string) bool
	// Stdout is standard output; nil: the process's.
	Stdout io.Writer
}

// The bounds of a drop log's files.
const (
	maxDropLogMB    = 100_000
	maxDropLogFiles = 1000
)

// Check says what of the options cannot be meant. To is looked at on this machine: what is there and is no
// file, such as a folder, would never take a line.
func (o *DropLogOptions) Check() error {
	switch {
	case o.To == DropLogOff || o.To == DropLogStdout:
		return nil
	case !filepath.IsAbs(o.To):
		return fmt.Errorf("--drop-log is %q: it must be %s, %s, or the absolute path of a file", o.To, DropLogOff, DropLogStdout)
	case o.MaxSizeMB < 1 || o.MaxSizeMB > maxDropLogMB:
		return fmt.Errorf("--drop-log-max-size-mb is %d: it must be from 1 to %d", o.MaxSizeMB, maxDropLogMB)
	case o.MaxFiles < 1 || o.MaxFiles > maxDropLogFiles:
		return fmt.Errorf("--drop-log-max-files is %d: it must be from 1 to %d", o.MaxFiles, maxDropLogFiles)
	}
	if info, err := os.Stat(o.To); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("--drop-log is %q: there is something that is no file (%s); give another path", o.To, info.Mode().Type())
	}
	return nil
}

// DropLog writes a line of JSON for each packet of a store that was denied, or would be with the staged policies in
// force, which its verdict tells apart: agents themselves remember little of what a policy would have denied, which
// somebody may want to know after weeks. Each line is a flows.Flow, or flows.Missed in place of
// those that it did not get to before they were overwritten. Only its own goroutine waits for the file.
type DropLog struct {
	store *Store
	to    string
	wants func(namespace string) bool
	out   io.Writer
	lines *prometheus.CounterVec
	log   logr.Logger
	// buffer has lines that are not written yet, and count says how many. failed is what the last write failed
	// with, as it was said; empty: it has not.
	buffer bytes.Buffer
	count  int
	failed string
}

// The values of the label result of podfence_drop_log_lines_total.
const (
	written = "written"
	lost    = "lost"
	missed  = "missed"
)

const (
	// dropLogBatch is how many octets are written at once at most, but for the last line of them.
	dropLogBatch = 64 << 10
	// dropLogEnd is for how long a write may go on when the agent ends.
	dropLogEnd = time.Second
)

// NewDropLog returns a drop log of the denials that a store gets from now on. Start runs it.
func NewDropLog(store *Store, o DropLogOptions, registry prometheus.Registerer, log logr.Logger) *DropLog {
	l := &DropLog{store: store, to: cmp.Or(o.To, DropLogOff), wants: o.Wants, log: log}
	switch {
	case l.to != DropLogOff && l.to != DropLogStdout:
		// It creates files that nobody but root can read.
		l.out = &lumberjack.Logger{Filename: l.to, MaxSize: o.MaxSizeMB, MaxBackups: o.MaxFiles}
	case o.Stdout != nil:
		l.out = o.Stdout
	default:
		l.out = os.Stdout
	}
	l.lines = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "podfence_drop_log_lines_total",
		Help: "Denials, and what staged policies would deny, for the drop log (--drop-log), by result: written, lost (the file or standard output could not be written; the log says why) or missed (more were denied than could be written).",
	}, []string{"result"})
	for _, result := range []string{written, lost, missed} {
		l.lines.WithLabelValues(result)
	}
	registry.MustRegister(l.lines)
	return l
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every node's agent logs.
func (*DropLog) NeedLeaderElection() bool { return false }

// Start writes until ctx is done. It implements manager.Runnable. It does not wait for a write that hangs.
func (l *DropLog) Start(ctx context.Context) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.follow(ctx)
	}()
	<-ctx.Done()
	select {
	case <-ended:
	case <-time.After(dropLogEnd):
	}
	return nil
}

// follow writes lines of what the store has and gets, until ctx is done.
func (l *DropLog) follow(ctx context.Context) {
	if file, is := l.out.(io.Closer); is && l.out != os.Stdout {
		defer file.Close()
	}
	for next := uint64(1); ; {
		f, number, err := l.store.Next(ctx, next)
		if err != nil {
			return
		}
		for ; f != nil; f, number = l.store.Get(next) {
			if number > next {
				l.miss(number - next)
			}
			next = number + 1
			if l.isFor(f) {
				l.add(f)
			}
			if l.buffer.Len() >= dropLogBatch {
				l.write()
			}
		}
		l.write()
	}
}

// isFor reports whether a flow is for the log: a denial, or what would be one, if all are logged, or if the namespace
// of a pod at one of its ends asks for it.
func (l *DropLog) isFor(f *flows.Flow) bool {
	if f.Verdict != flows.Denied && f.Verdict != flows.WouldDeny {
		return false
	}
	if l.to != DropLogOff {
		return true
	}
	from, to := f.Source.Namespace, f.Destination.Namespace
	return l.asks(from) || from != to && l.asks(to)
}

func (l *DropLog) asks(namespace string) bool {
	return namespace != "" && l.wants != nil && l.wants(namespace)
}

// miss takes note of flows that were overwritten before they were read. Nobody knows whether a namespace had
// asked for them, so that it is a line where all denials are logged only.
func (l *DropLog) miss(count uint64) {
	if l.to == DropLogOff {
		return
	}
	l.lines.WithLabelValues(missed).Add(float64(count))
	l.encode(flows.Missed{Missed: count})
}

func (l *DropLog) add(f *flows.Flow) {
	l.encode(f)
	l.count++
}

func (l *DropLog) encode(line any) {
	encoder := json.NewEncoder(&l.buffer)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(line) // flows are plain values, and a buffer takes all
}

// write writes what is in the buffer. If that fails, these lines are lost, and it is said once, until a write
// succeeds or fails for another reason.
func (l *DropLog) write() {
	if l.buffer.Len() == 0 {
		return
	}
	text := l.buffer.Bytes()
	if l.failed != "" { // what has failed may have left half a line
		text = append([]byte{'\n'}, text...)
	}
	_, err := l.out.Write(text)
	switch {
	case err == nil && l.failed != "":
		l.log.Info("The drop log is written again", "to", l.to)
		l.failed = ""
	case err != nil && reason(err) != l.failed:
		l.failed = reason(err)
		l.log.Error(err, "Cannot write the drop log: denials are not in it until it can be written. Make room on the disk, or give another file by --drop-log", "to", l.to)
	}
	result := written
	if err != nil {
		result = lost
	}
	l.lines.WithLabelValues(result).Add(float64(l.count))
	l.buffer.Reset()
	l.count = 0
}

// reason is the kernel's error, without the names of files, which may have a time in them.
func reason(err error) string {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err.Error()
}
