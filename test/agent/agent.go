// Package agent runs podfence's agent as its users do, a process of its own, on
// a node of a lab.
package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/test/lab"
)

// Options say what to run.
type Options struct {
	// Binary is podfence; see prebuilt.Podfence.
	Binary string
	// Node is where it runs. The Node of the API has its name.
	Node *lab.Node
	// Kubeconfig is that of an API server on this machine's loopback, as envtest
	// starts it.
	Kubeconfig []byte
	// Manifests, if not empty, is a folder of YAML to enforce instead.
	Manifests string
	// Relay is how the node reaches the API server, which the caller closes; nil: by
	// one of the agent's own.
	Relay *Relay
	// Args are more of the agent's flags.
	Args []string
	// Cgroup bounds its memory; nil: nothing does.
	Cgroup *Cgroup
}

// Agent is a running agent. Its methods may be called from any goroutine.
type Agent struct {
	node    *lab.Node
	process *exec.Cmd
	folder  string
	relay   *Relay // nil: the caller's
	http    http.Client
	ended   chan struct{}

	mu     sync.Mutex
	waited error
	lines  []string // of its log
}

// Start starts an agent. It is not ready yet.
func Start(o Options) (_ *Agent, err error) {
	a := &Agent{node: o.Node, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start the agent of %s: %w", o.Node.Name, err), a.cleanUp())
		}
	}()
	if a.folder, err = os.MkdirTemp("", "podfence-agent-"); err != nil {
		return nil, err
	}
	source, err := a.source(o)
	if err != nil {
		return nil, err
	}
	a.http.Transport = &http.Transport{DialContext: a.dial, DisableKeepAlives: true}
	command := slices.Concat([]string{o.Binary, "agent", "--node-name", o.Node.Name, "--log-level", "info"}, source, o.Args)
	if o.Cgroup != nil {
		command = o.Cgroup.enter(command)
	}
	a.process = exec.Command(command[0], command[1:]...)
	if o.Cgroup != nil {
		a.process.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	}
	// As the DaemonSet's containers, not with what this process was given.
	a.process.Env = []string{"PATH=" + os.Getenv("PATH")}
	logs, err := a.process.StderrPipe()
	if err != nil {
		return nil, err
	}
	// The child is forked from a thread of the node's, so it is in its namespace.
	if err := o.Node.Do(a.process.Start); err != nil {
		a.process = nil
		return nil, err
	}
	go a.follow(logs)
	return a, nil
}

// source is the flags that say what the agent reads.
func (a *Agent) source(o Options) (flags []string, err error) {
	if o.Manifests != "" {
		return []string{"--manifests", o.Manifests}, nil
	}
	if o.Relay == nil {
		if a.relay, err = NewRelay(o.Node, o.Kubeconfig); err != nil {
			return nil, err
		}
	}
	kubeconfig := filepath.Join(a.folder, "kubeconfig")
	return []string{"--kubeconfig", kubeconfig}, os.WriteFile(kubeconfig, o.Kubeconfig, 0o600)
}

// follow keeps the process's log until the process has ended.
func (a *Agent) follow(logs io.Reader) {
	for lines := bufio.NewScanner(logs); lines.Scan(); {
		a.mu.Lock()
		a.lines = append(a.lines, lines.Text())
		a.mu.Unlock()
	}
	err := a.process.Wait()
	a.mu.Lock()
	a.waited = err
	a.mu.Unlock()
	close(a.ended)
}

// Log is what the agent has written until now.
func (a *Agent) Log() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.lines, "\n")
}

// Ready says whether the agent says that it enforces.
func (a *Agent) Ready(ctx context.Context) bool {
	status, _, err := a.get(ctx, "9479", "/readyz")
	return err == nil && status == http.StatusOK
}

// AwaitReady waits until the agent says that it enforces.
func (a *Agent) AwaitReady(ctx context.Context) error {
	for {
		if a.Ready(ctx) {
			return nil
		}
		select {
		case <-a.ended:
			return fmt.Errorf("the agent of %s has ended:\n%s", a.node.Name, a.Log())
		case <-ctx.Done():
			return fmt.Errorf("the agent of %s is not ready: %w:\n%s", a.node.Name, ctx.Err(), a.Log())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Ended is closed when the agent has ended.
func (a *Agent) Ended() <-chan struct{} { return a.ended }

// Usage is what a process takes of the machine.
type Usage struct {
	// Resident and Peak are bytes of memory: now, and at most since the start.
	Resident, Peak uint64
	// CPU is the time on all processors.
	CPU time.Duration
}

// Usage reads what the agent takes (proc_pid_status(5), proc_pid_stat(5)).
func (a *Agent) Usage() (u Usage, err error) {
	status, err := a.Proc("status")
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[2] != "kB" {
			continue
		}
		kilobytes, _ := strconv.ParseUint(fields[1], 10, 64)
		switch fields[0] {
		case "VmRSS:":
			u.Resident = kilobytes << 10
		case "VmHWM:":
			u.Peak = kilobytes << 10
		}
	}
	stat, err := a.Proc("stat")
	if err != nil {
		return u, err
	}
	// utime and stime are fields 14 and 15; the second, the name, may have spaces.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const hertz = 100 // USER_HZ, the same on every architecture that Go has
	for _, field := range fields[11:13] {
		ticks, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return u, fmt.Errorf("the agent of %s: stat: %w", a.node.Name, err)
		}
		u.CPU += time.Duration(ticks) * time.Second / hertz
	}
	return u, nil
}

// Proc reads a file of /proc/PID.
func (a *Agent) Proc(file string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(a.process.Process.Pid), file))
	if err != nil {
		return nil, fmt.Errorf("the agent of %s: %w", a.node.Name, err)
	}
	return text, nil
}

// Exposition is what the agent serves on /metrics.
func (a *Agent) Exposition(ctx context.Context) (string, error) {
	_, body, err := a.get(ctx, "9478", "/metrics")
	return body, err
}

// Metrics are the values on /metrics by name: of those with labels, the sum; of
// histograms, name_count and name_sum.
func (a *Agent) Metrics(ctx context.Context) (map[string]float64, error) {
	body, err := a.Exposition(ctx)
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("metrics of the agent of %s: %w", a.node.Name, err)
	}
	values := map[string]float64{}
	for name, family := range families {
		for _, m := range family.Metric {
			values[name] += m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
			if h := m.GetHistogram(); h != nil {
				values[name+"_count"] += float64(h.GetSampleCount())
				values[name+"_sum"] += h.GetSampleSum()
			}
		}
	}
	return values, nil
}

// Profile is one of Go's, such as /debug/pprof/heap; it takes Args
// --pprof-address 127.0.0.1:9480.
func (a *Agent) Profile(ctx context.Context, path string) ([]byte, error) {
	_, body, err := a.get(ctx, "9480", path)
	return []byte(body), err
}

// get asks one of the agent's servers, at its usual port.
func (a *Agent) get(ctx context.Context, port, path string) (status int, body string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+path, nil)
	if err != nil {
		return 0, "", err
	}
	response, err := a.http.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	all, err := io.ReadAll(response.Body)
	return response.StatusCode, string(all), err
}

// dial connects inside the node.
func (a *Agent) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = a.node.Do(func() (err error) {
		// By address, so that no resolver's goroutine is asked.
		to, err := net.ResolveTCPAddr(network, address)
		if err != nil {
			return err
		}
		conn, err = (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, to.String())
		return err
	})
	return conn, err
}

// Freeze stops the agent from running, until Thaw: it neither ends nor answers. It
// returns when every thread stands still. The signal is taken by one thread, which then
// stops the others (kernel/signal.c, do_signal_stop), and until that one gets a processor
// the agent goes on: on a busy machine long enough for a change to reach the table.
func (a *Agent) Freeze() error {
	if err := a.process.Process.Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("freeze the agent of %s: %w", a.node.Name, err)
	}
	for {
		// Only a stop is waited for here; the end is follow's.
		err := unix.Waitid(unix.P_PID, a.process.Process.Pid, nil, unix.WSTOPPED, nil)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("freeze the agent of %s: wait until it stands still: %w", a.node.Name, err)
		}
	}
}

// Thaw lets the agent go on.
func (a *Agent) Thaw() error { return a.process.Process.Signal(syscall.SIGCONT) }

// Kill kills the agent, as a crash would.
func (a *Agent) Kill() error { return a.end(syscall.SIGKILL) }

// Stop ends the agent as kubelet does, and waits for it.
func (a *Agent) Stop() error { return a.end(syscall.SIGTERM) }

func (a *Agent) end(by syscall.Signal) error {
	// One that has ended already is told by what it ended with.
	_ = a.process.Process.Signal(by)
	<-a.ended
	a.mu.Lock()
	err := a.waited
	a.mu.Unlock()
	if status, ok := a.process.ProcessState.Sys().(syscall.WaitStatus); ok && by == syscall.SIGKILL && status.Signal() == by {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("the agent of %s ended with %w:\n%s", a.node.Name, err, a.Log())
	}
	return errors.Join(err, a.cleanUp())
}

func (a *Agent) cleanUp() error {
	var err error
	if a.relay != nil {
		err = a.relay.Close()
	}
	if a.folder != "" {
		err = errors.Join(err, os.RemoveAll(a.folder))
	}
	return err
}
