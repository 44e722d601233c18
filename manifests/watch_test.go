package manifests

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// told is a running watch, with what each call read.
type told struct {
	calls  chan string
	number atomic.Int32
}

// start runs a watch until the test ends, and takes its first call.
func start(t *testing.T, w watch) *told {
	t.Helper()
	seen := &told{calls: make(chan string, 1000)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- w.run(ctx, func() {
			seen.number.Add(1)
			seen.calls <- nodesOf(w.path)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the watch ended with %v", err)
		}
	})
	select {
	case <-seen.calls:
	case err := <-done:
		done <- err
		t.Fatalf("the watch ended with %v", err)
	}
	return seen
}

func quick(path string) watch {
	return watch{path: path, quiet: 20 * time.Millisecond, most: 200 * time.Millisecond, period: time.Hour}
}

// nodesOf are the names of a folder's nodes, or "error".
func nodesOf(path string) string {
	s, err := Load(path)
	if err != nil {
		return "error"
	}
	var names []string
	for _, n := range s.Nodes {
		names = append(names, n.Name)
	}
	return strings.Join(names, " ")
}

// expect waits for a call that reads the nodes.
func (s *told) expect(t *testing.T, want string) {
	t.Helper()
	var last string
	timeout := time.After(10 * time.Second)
	for {
		select {
		case last = <-s.calls:
			if last == want {
				return
			}
		case <-timeout:
			t.Fatalf("no call that reads %q, the last read %q", want, last)
		}
	}
}

// still expects no call for a while, after those of the same change.
func (s *told) still(t *testing.T) {
	t.Helper()
	time.Sleep(100 * time.Millisecond)
	before := s.number.Load()
	time.Sleep(200 * time.Millisecond)
	if after := s.number.Load(); after != before {
		t.Errorf("%d calls without a change", after-before)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func TestWatchFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	a := filepath.Join(dir, "a.yaml")
	write(t, a, nodeYAML("a"))
	seen := start(t, quick(dir))
	seen.still(t)

	write(t, a, nodeYAML("b")) // in place
	seen.expect(t, "b")
	write(t, filepath.Join(dir, ".a.swp"), nodeYAML("c")) // as editors do
	rename(t, filepath.Join(dir, ".a.swp"), a)
	seen.expect(t, "c")
	write(t, filepath.Join(dir, "sub", "deep", "d.yaml"), nodeYAML("d"))
	seen.expect(t, "c d")
	write(t, filepath.Join(dir, "sub", "deep", "d.yaml"), nodeYAML("e"))
	seen.expect(t, "c e")
	remove(t, filepath.Join(dir, "sub"))
	seen.expect(t, "c")
	seen.still(t)

	// Another folder of the same name, and back again.
	rename(t, dir, dir+".old")
	seen.expect(t, "error")
	write(t, filepath.Join(dir, "f.yaml"), nodeYAML("f"))
	seen.expect(t, "f")
	write(t, filepath.Join(dir, "f.yaml"), nodeYAML("g"))
	seen.expect(t, "g")
	remove(t, dir)
	seen.expect(t, "error")
	rename(t, dir+".old", dir)
	seen.expect(t, "c")
	write(t, a, nodeYAML("h"))
	seen.expect(t, "h")
	seen.still(t)

	// A neighbour is none of its business.
	before := seen.number.Load()
	write(t, dir+".yaml", nodeYAML("x"))
	time.Sleep(200 * time.Millisecond)
	if after := seen.number.Load(); after != before {
		t.Errorf("%d calls for a neighbour", after-before)
	}
}

func TestWatchConfigMapMount(t *testing.T) {
	dir, update := mount(t)
	update("..2026_1", map[string]string{"a.yaml": nodeYAML("a"), "sub/b.yaml": nodeYAML("b")})
	seen := start(t, quick(dir))
	single := start(t, quick(filepath.Join(dir, "a.yaml")))
	for _, version := range []string{"c", "d", "e"} {
		update("..2026_"+version, map[string]string{"a.yaml": nodeYAML(version), "sub/b.yaml": nodeYAML(version + "2")})
		seen.expect(t, version+" "+version+"2")
		single.expect(t, version)
	}
	seen.still(t)
}

func TestWatchSymlinkToFolder(t *testing.T) {
	dir := folder(t, map[string]string{"v1/a.yaml": nodeYAML("a"), "v2/a.yaml": nodeYAML("b")})
	link := filepath.Join(t.TempDir(), "now")
	symlink(t, filepath.Join(dir, "v1"), link)
	seen := start(t, quick(link))
	symlink(t, filepath.Join(dir, "v2"), link+".new")
	rename(t, link+".new", link)
	seen.expect(t, "b")
	write(t, filepath.Join(dir, "v2", "a.yaml"), nodeYAML("c"))
	seen.expect(t, "c")
}

func TestWatchFile(t *testing.T) {
	dir := folder(t, map[string]string{"a.yaml": nodeYAML("a")})
	a := filepath.Join(dir, "a.yaml")
	seen := start(t, quick(a))
	write(t, a, nodeYAML("b"))
	seen.expect(t, "b")
	write(t, a+".new", nodeYAML("c"))
	rename(t, a+".new", a)
	seen.expect(t, "c")
	remove(t, a)
	seen.expect(t, "error")
	write(t, a, nodeYAML("d"))
	seen.expect(t, "d")
	seen.still(t)
}

// TestWatchGathers: one call for many changes in a row, but not never.
func TestWatchGathers(t *testing.T) {
	dir := t.TempDir()
	w := quick(dir)
	w.quiet, w.most = 300*time.Millisecond, time.Hour
	seen := start(t, w)
	for range 20 {
		write(t, filepath.Join(dir, "a.yaml"), nodeYAML("a"))
		time.Sleep(5 * time.Millisecond)
	}
	seen.expect(t, "a")
	if calls := seen.number.Load(); calls != 2 {
		t.Errorf("%d calls for one burst, besides the first", calls-1)
	}

	w = quick(dir)
	w.quiet = time.Hour
	seen = start(t, w)
	write(t, filepath.Join(dir, "a.yaml"), nodeYAML("b"))
	seen.expect(t, "b")
}

// TestWatchSameSizeAndTime: an event about a file is enough, however little
// the file shows of it.
func TestWatchSameSizeAndTime(t *testing.T) {
	dir := folder(t, map[string]string{"a.yaml": nodeYAML("a")})
	a := filepath.Join(dir, "a.yaml")
	then := time.Now().Add(-time.Hour)
	if err := os.Chtimes(a, then, then); err != nil {
		t.Fatal(err)
	}
	seen := start(t, quick(dir))
	write(t, a, nodeYAML("b"))
	if err := os.Chtimes(a, then, then); err != nil {
		t.Fatal(err)
	}
	seen.expect(t, "b")
}

// TestWatchLinkedFile: a file elsewhere that a link in the folder leads to.
func TestWatchLinkedFile(t *testing.T) {
	outside := folder(t, map[string]string{"a.yaml": nodeYAML("a")})
	dir := t.TempDir()
	symlink(t, filepath.Join(outside, "a.yaml"), filepath.Join(dir, "a.yaml"))
	seen := start(t, quick(dir))
	write(t, filepath.Join(outside, "a.yaml"), nodeYAML("other"))
	seen.expect(t, "other")
	seen.still(t)
}

// TestWatchLooksAgain: a change that nothing tells of is found all the same.
func TestWatchLooksAgain(t *testing.T) {
	outside := folder(t, map[string]string{"v1/a.yaml": nodeYAML("a"), "v2/a.yaml": nodeYAML("b")})
	now := filepath.Join(outside, "now")
	symlink(t, "v1", now)
	dir := t.TempDir()
	symlink(t, filepath.Join(now, "a.yaml"), filepath.Join(dir, "a.yaml"))
	w := quick(dir)
	w.period = 100 * time.Millisecond
	seen := start(t, w)
	symlink(t, "v2", now+".new")
	rename(t, now+".new", now)
	seen.expect(t, "b")
	seen.still(t)
}

func TestWatchMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	err := Watch(context.Background(), path, func() { t.Error("called") })
	if err == nil || err.Error() != "watching manifests: stat "+path+": no such file or directory" {
		t.Errorf("watching nothing: %v", err)
	}
}

// TestWatch: the first call comes without a change, and the end is no error.
func TestWatch(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	if err := Watch(ctx, t.TempDir(), cancel); err != nil {
		t.Error(err)
	}
}
