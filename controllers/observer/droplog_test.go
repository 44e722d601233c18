package observer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/observer"
)

// output is a standard output that may fail, or hang.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	err  error
	hang chan struct{}
}

func (o *output) Write(text []byte) (int, error) {
	if o.hang != nil {
		<-o.hang
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		n, _ := o.text.Write(text[:len(text)/2])
		return n, o.err
	}
	return o.text.Write(text)
}

func (o *output) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
}

func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return lines(o.text.String())
}

// lines are the texts of the flows that a log has, and how many it says were missed.
func lines(log string) (all []string) {
	for line := range strings.Lines(log) {
		switch f, missed, err := flows.ParseLine([]byte(strings.TrimSpace(line))); {
		case err != nil:
			all = append(all, "broken")
		case missed > 0:
			all = append(all, fmt.Sprint("missed ", missed))
		case f != nil:
			all = append(all, f.Text)
		}
	}
	return all
}

// between is a denial of a packet between pods of two namespaces; empty: it is no pod's.
func between(from, to, text string) *flows.Flow {
	f := &flows.Flow{Verdict: flows.Denied, Text: text}
	f.Source.Namespace, f.Destination.Namespace = from, to
	return f
}

func wants(namespaces ...string) func(string) bool {
	return func(namespace string) bool { return slices.Contains(namespaces, namespace) }
}

// count are the lines that the metric has of a result.
func count(t *testing.T, registry *prometheus.Registry, result string) int {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range families[0].GetMetric() {
		if m.GetLabel()[0].GetValue() == result {
			return int(m.GetCounter().GetValue())
		}
	}
	t.Fatalf("the metric has no result %s", result)
	return 0
}

// TestDropLogHasDenials: each denial is a line if the log is on; if it is off, those of which an end's namespace
// asks for it, once each.
func TestDropLogHasDenials(t *testing.T) {
	for name, c := range map[string]struct {
		to    string
		wants func(string) bool
		want  []string
	}{
		"stdout":             {observer.DropLogStdout, nil, []string{"none", "from", "to", "both", "other", "staged"}},
		"stdout, and asked":  {observer.DropLogStdout, wants("shop"), []string{"none", "from", "to", "both", "other", "staged"}},
		"off":                {observer.DropLogOff, nil, nil},
		"not said":           {"", wants("shop"), []string{"from", "to", "both", "staged"}},
		"off, and asked":     {observer.DropLogOff, wants("shop"), []string{"from", "to", "both", "staged"}},
		"off, asked by none": {observer.DropLogOff, wants("", "elsewhere"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, out, registry := observer.NewStore(100, nil), &output{}, prometheus.NewRegistry()
				l := observer.NewDropLog(store, observer.DropLogOptions{To: c.to, Wants: c.wants, Stdout: out}, registry, logr.Discard())
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- l.Start(ctx) }()
				for _, f := range []*flows.Flow{
					between("", "", "none"), between("shop", "", "from"), between("other", "shop", "to"), between("shop", "shop", "both"), between("other", "", "other"),
					{Verdict: flows.Allowed, Text: "allowed", Source: flows.Endpoint{Namespace: "shop"}},
					{Verdict: flows.WouldDeny, Text: "staged", Source: flows.Endpoint{Namespace: "shop"}},
					{Verdict: flows.WouldAllow, Text: "staged, and denied", Source: flows.Endpoint{Namespace: "shop"}},
				} {
					store.Add(f)
				}
				synctest.Wait()
				if got := out.lines(); !slices.Equal(got, c.want) {
					t.Errorf("it has %q, want %q", got, c.want)
				}
				if got := count(t, registry, "written"); got != len(c.want) {
					t.Errorf("%d lines are counted, want %d", got, len(c.want))
				}
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestDropLogThatHangs: while a write hangs nobody waits who adds flows, nor the agent's end; what was missed is
// said when it goes on.
func TestDropLogThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, out, registry := observer.NewStore(3, nil), &output{hang: make(chan struct{})}, prometheus.NewRegistry()
		l := observer.NewDropLog(store, observer.DropLogOptions{To: observer.DropLogStdout, Stdout: out}, registry, logr.Discard())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Start(ctx) }()
		store.Add(between("", "", "1"))
		synctest.Wait()
		for n := 2; n <= 10; n++ {
			store.Add(between("", "", fmt.Sprint(n)))
		}
		out.hang <- struct{}{}
		synctest.Wait()
		out.hang <- struct{}{}
		synctest.Wait()
		if got, want := out.lines(), []string{"1", "missed 6", "8", "9", "10"}; !slices.Equal(got, want) {
			t.Errorf("it has %q, want %q", got, want)
		}
		if got := count(t, registry, "missed"); got != 6 {
			t.Errorf("%d are counted as missed", got)
		}
		store.Add(between("", "", "11"))
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		close(out.hang)
	})
}

// TestDropLogThatFails: that it cannot be written is said once, lines are lost and counted, and those after them
// are whole.
func TestDropLogThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, out, registry := observer.NewStore(10, nil), &output{}, prometheus.NewRegistry()
		var said []string
		log := funcr.New(func(_, text string) { said = append(said, text) }, funcr.Options{})
		l := observer.NewDropLog(store, observer.DropLogOptions{To: observer.DropLogStdout, Stdout: out}, registry, log)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Start(ctx) }()
		add := func(text string) {
			store.Add(between("", "", text))
			synctest.Wait()
		}
		add("1")
		for n := range 3 { // names of files that have a time in them are no news
			out.fail(&os.PathError{Op: "write", Path: fmt.Sprint("drops-", n), Err: syscall.ENOSPC})
			add("lost")
		}
		if len(said) != 1 || !strings.Contains(said[0], "no space left") || !strings.Contains(said[0], "--drop-log") {
			t.Errorf("it says %q", said)
		}
		out.fail(errors.New("another reason"))
		add("lost")
		out.fail(nil)
		add("2")
		add("3")
		if len(said) != 3 || !strings.Contains(said[1], "another reason") || !strings.Contains(said[2], "written again") {
			t.Errorf("it says %q", said)
		}
		var whole []string
		for _, line := range out.lines() {
			if line != "broken" {
				whole = append(whole, line)
			}
		}
		if !slices.Equal(whole, []string{"1", "2", "3"}) {
			t.Errorf("it has %q", out.lines())
		}
		if w, l := count(t, registry, "written"), count(t, registry, "lost"); w != 3 || l != 4 {
			t.Errorf("%d are counted as written, %d as lost", w, l)
		}
		cancel()
		<-ended
	})
}

// TestDropLogFile: a file is for its owner alone, is followed by the next when it is full, and only some old ones
// are kept. What was in it before stays.
func TestDropLogFile(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "made", "drops.log")
	store, registry := observer.NewStore(10_000, nil), prometheus.NewRegistry()
	o := observer.DropLogOptions{To: file, MaxSizeMB: 1, MaxFiles: 2}
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	run := func(what func()) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		registry = prometheus.NewRegistry()
		l := observer.NewDropLog(store, o, registry, logr.Discard())
		go func() { ended <- l.Start(ctx) }()
		what()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	wait := func(why string, holds func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(why)
			}
		}
	}
	store.Add(between("", "", "first"))
	run(func() { wait("the first is not written", func() bool { return count(t, registry, "written") == 1 }) })
	text, err := os.ReadFile(file)
	if err != nil || !slices.Equal(lines(string(text)), []string{"first"}) {
		t.Fatalf("it has %q: %v", text, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("its mode is %v: %v", info.Mode(), err)
	}
	run(func() {
		long := strings.Repeat("x", 10_000)
		for n := range 600 { // 6 MB
			store.Add(between("", "", long))
			if n%6 == 0 { // the names of old files have milliseconds
				time.Sleep(time.Millisecond)
			}
		}
		wait("not all is written", func() bool { return count(t, registry, "written") >= 601 })
		wait("there are too many files", func() bool {
			files, err := os.ReadDir(filepath.Dir(file))
			return err == nil && len(files) == 3
		})
	})
	files, err := filepath.Glob(filepath.Join(filepath.Dir(file), "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil || info.Mode() != 0o600 || info.Size() > 1<<20 {
			t.Errorf("%s: %v, %d octets, %v", name, info.Mode(), info.Size(), err)
		}
		text, err := os.ReadFile(name)
		if err != nil || slices.Contains(lines(string(text)), "broken") {
			t.Errorf("%s has lines in part: %v", name, err)
		}
	}
}

// TestDropLogFileFails: a file that cannot be written loses lines, and keeps nobody waiting.
func TestDropLogFileFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "drops.log")
	if err := os.WriteFile(filepath.Dir(file)+"/no-folder", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	store, registry := observer.NewStore(10, nil), prometheus.NewRegistry()
	said := make(chan string, 10)
	log := funcr.New(func(_, text string) { said <- text }, funcr.Options{})
	l := observer.NewDropLog(store, observer.DropLogOptions{To: filepath.Dir(file) + "/no-folder/drops.log", MaxSizeMB: 1, MaxFiles: 1}, registry, log)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Start(ctx) }()
	store.Add(between("", "", "lost"))
	select {
	case text := <-said:
		if !strings.Contains(text, "Cannot write the drop log") || !strings.Contains(text, "not a directory") {
			t.Errorf("it says %s", text)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it says nothing")
	}
	cancel()
	if err := <-ended; err != nil || count(t, registry, "lost") != 1 {
		t.Errorf("%v, %d lost", err, count(t, registry, "lost"))
	}
}

// TestDropLogOptions: what cannot be meant is refused.
func TestDropLogOptions(t *testing.T) {
	folder := t.TempDir()
	for _, c := range []struct {
		o    observer.DropLogOptions
		says string
	}{
		{observer.DropLogOptions{To: "off"}, ""},
		{observer.DropLogOptions{To: "stdout"}, ""},
		{observer.DropLogOptions{To: folder + "/new/drops", MaxSizeMB: 1, MaxFiles: 1}, ""},
		{observer.DropLogOptions{To: ""}, "absolute path"},
		{observer.DropLogOptions{To: "on"}, "absolute path"},
		{observer.DropLogOptions{To: folder, MaxSizeMB: 1, MaxFiles: 1}, "is no file"},
		{observer.DropLogOptions{To: "/dev/null", MaxSizeMB: 1, MaxFiles: 1}, "is no file"},
		{observer.DropLogOptions{To: "/drops", MaxFiles: 1}, "--drop-log-max-size-mb"},
		{observer.DropLogOptions{To: "/drops", MaxSizeMB: 1}, "--drop-log-max-files"},
	} {
		if err := c.o.Check(); (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
}
