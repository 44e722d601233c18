package manifests

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watch calls onChange when something in the folder, or about the file, has
// changed, until ctx is done; it then returns nil. The first call comes as
// soon as everything is watched, so that no change between a Load and a Watch
// is missed. Calls are never concurrent, and may come without a change that
// Load would see.
//
// A path that is not there is an error at the start. Later it is a change, and
// so is its return.
//
// A file that is written in place may be read half-written. Whoever writes
// does better to write another file and rename it over.
func Watch(ctx context.Context, path string, onChange func()) error {
	w := watch{
		path:   path,
		quiet:  50 * time.Millisecond,
		most:   time.Second,
		period: 30 * time.Second,
	}
	return w.run(ctx, onChange)
}

// watch is a Watch with its times.
type watch struct {
	path string
	// quiet is how long nothing more must happen before onChange is called, because editors and
	// ConfigMap mounts change a folder in several steps. most bounds that wait where something
	// happens all the time.
	quiet, most time.Duration
	// period is how often to look without an event: there are none of folders on a network, and a
	// folder that was gone may come back.
	period time.Duration

	notify *fsnotify.Watcher
	// folders are the real paths of those that Load walks; watched has also
	// those around path and around the files that links lead to.
	folders, watched map[string]bool
	// real is the real path of path, while there was one.
	real string
	// seen is what the last look saw: files, and what failed.
	seen map[string]stamp
}

// stamp is what identifies a version of a file, or only the error that came instead. It differs when
// the file has changed, unless the size is the same and the change came within one tick of the
// clock. It is for changes of which there is no event.
type stamp struct {
	err      string
	real     string
	size     int64
	modified time.Time
	mode     fs.FileMode
}

func (w *watch) run(ctx context.Context, onChange func()) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("watching manifests: %w", err)
		}
	}()
	if w.path, err = filepath.Abs(w.path); err != nil {
		return err
	}
	if _, err := os.Stat(w.path); err != nil {
		return err
	}
	if w.notify, err = fsnotify.NewWatcher(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.notify.Close()) }()
	if err := w.look(); err != nil {
		return err
	}
	onChange()
	w.loop(ctx, onChange)
	return nil
}

func (w *watch) loop(ctx context.Context, onChange func()) {
	periodic := time.NewTicker(w.period)
	defer periodic.Stop()
	due := time.NewTimer(w.most)
	due.Stop()
	defer due.Stop()
	// since is when the first of the events came that have led to nothing yet. concerned says that
	// one of them is about a file or folder of ours.
	var since time.Time
	var concerned bool
	note := func(ours bool) {
		if since.IsZero() {
			since = time.Now()
		}
		concerned = concerned || ours
		due.Reset(min(w.quiet, w.most-time.Since(since)))
	}
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-w.notify.Events:
			note(w.concerns(event.Name))
		case <-w.notify.Errors: // most likely that events were lost
			note(true)
		case <-periodic.C:
			note(false)
		case <-due.C:
			before, tell := w.seen, concerned
			since, concerned = time.Time{}, false
			// Look before calling onChange, so that Load sees what came before the new watches.
			// What cannot be watched is looked at every period.
			_ = w.look()
			if tell || !maps.Equal(before, w.seen) {
				onChange()
			}
		}
	}
}

// concerns reports whether an event is about what Load reads, rather than a
// neighbour of the path.
func (w *watch) concerns(name string) bool {
	return name == w.path || name == w.real || w.folders[name] || w.folders[filepath.Dir(name)]
}

// look brings the watches and seen up to date. The error is about the folders
// that cannot be watched.
func (w *watch) look() error {
	var errs []error
	watched := map[string]bool{}
	add := func(folder string) {
		if !watched[folder] {
			watched[folder] = true
			// Also those watched already: this may be another folder of that
			// name, or the same one after it was moved away and back.
			errs = append(errs, w.notify.Add(folder))
		}
	}
	if real, err := filepath.EvalSymlinks(w.path); err == nil {
		w.real = real
	}
	found := walk(w.path, false, add)
	w.folders = found.folders
	w.see(found)
	inside := len(errs)
	add(filepath.Dir(w.path))
	add(filepath.Dir(w.real))
	for _, s := range w.seen {
		if s.real != "" {
			add(filepath.Dir(s.real))
		}
	}
	for folder := range w.watched {
		if !watched[folder] {
			_ = w.notify.Remove(folder) // it may be gone, and its watch with it
		}
	}
	w.watched = watched
	if len(w.folders) > 0 {
		// The watch of what is around a folder only tells sooner that the folder was replaced, and
		// it may not be permitted. A file has no other watch.
		errs = errs[:inside]
	}
	return errors.Join(errs...)
}

func (w *watch) see(found *listing) {
	w.seen = map[string]stamp{}
	for _, e := range found.errs {
		w.seen[e.File] = stamp{err: e.Error()}
	}
	for _, file := range found.files {
		real, err := filepath.EvalSymlinks(file)
		if err != nil {
			w.seen[file] = stamp{err: err.Error()}
			continue
		}
		info, err := os.Stat(real)
		if err != nil {
			w.seen[file] = stamp{err: err.Error()}
			continue
		}
		w.seen[file] = stamp{real: real, size: info.Size(), modified: info.ModTime(), mode: info.Mode()}
	}
}
