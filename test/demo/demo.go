package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/podfence/podfence/manifests"
	"github.com/podfence/podfence/test/lab"
)

//go:embed shop/*.yaml
var shop embed.FS

// prefix begins the names of the demo's network namespaces.
const prefix = "podfence-demo-"

// stage is one state of the shop.
type stage struct {
	title string
	// add is a file of shop/ to enforce from now on.
	add string
	// from, to change the text of cluster.yaml.
	from, to string
}

// cluster is the file of shop/ with all that is no policy.
const cluster = "cluster.yaml"

var stages = []stage{
	{title: "1. Before any policy: everyone reaches everyone"},
	{title: "2. After default deny in shop and data: pods send and receive nothing", add: "default-deny.yaml"},
	{title: "3. After the allows: the shop works, and nothing else does", add: "allows.yaml"},
	{title: "4. After the frontend's label changes to app=retired: it is cut off", from: "labels: {app: frontend}", to: "labels: {app: retired}"},
}

// run runs the demo and writes what it finds. It fails if any packet got
// another verdict than policy.Judge gives. It removes all that it makes, and
// what an earlier demo has left, unless told to keep it.
func run(ctx context.Context, out io.Writer, keep bool) error {
	plugin, err := findPlugin()
	if err != nil {
		return err
	}
	if err := removeLeftovers(); err != nil {
		return fmt.Errorf("removing an earlier demo: %w", err)
	}
	var t town
	err = t.show(ctx, newPrinter(out), plugin, keep)
	stopped := t.stop()
	if keep && err == nil && stopped == nil {
		return nil
	}
	removed := errors.Join(stopped, t.remove())
	if ctx.Err() != nil && removed == nil {
		return errors.New("interrupted; all that the demo made is removed")
	}
	return errors.Join(err, removed)
}

// findPlugin finds the CNI plugin, which is built beside this program.
func findPlugin() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding podfence-cni: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), "podfence-cni")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the demo connects its pods by %s, and there is no such file: run make build", path)
	} else if err != nil {
		return "", fmt.Errorf("finding podfence-cni: %w", err)
	}
	return path, nil
}

// removeLeftovers removes what a demo that was killed, or told to keep it, has
// left.
func removeLeftovers() error {
	_, err := lab.RemoveLeftovers(prefix)
	folders, globErr := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	err = errors.Join(err, globErr)
	for _, folder := range folders {
		err = errors.Join(err, os.RemoveAll(folder))
	}
	return err
}

// show builds the town and goes through the stages.
func (t *town) show(ctx context.Context, p *printer, plugin string, keep bool) error {
	if err := t.build(ctx, plugin); err != nil {
		return err
	}
	p.intro()
	wrong := 0
	for _, s := range stages {
		if err := s.apply(t.manifests()); err != nil {
			return err
		}
		if err := t.enforced(ctx); err != nil {
			return err
		}
		objects, err := manifests.Load(t.manifests())
		if err != nil {
			return err
		}
		conversations, err := t.talk(ctx, objects.Snapshot)
		if err != nil {
			return err
		}
		wrong += p.stage(s.title, t.services, conversations)
	}
	if wrong > 0 {
		return fmt.Errorf("%d of the conversations above did not go as the policies say", wrong)
	}
	p.outro(keep, t.folder)
	return nil
}

// apply brings a folder of manifests to the stage.
func (s stage) apply(folder string) error {
	if s.add != "" {
		if err := add(folder, s.add); err != nil {
			return err
		}
	}
	if s.from == "" {
		return nil
	}
	return edit(filepath.Join(folder, cluster), s.from, s.to)
}

// add copies a file of shop/ into a folder.
func add(folder, name string) error {
	text, err := shop.ReadFile("shop/" + name)
	if err != nil {
		return err
	}
	return write(filepath.Join(folder, name), text)
}

// edit changes the text of a file.
func edit(path, from, to string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !strings.Contains(string(text), from) {
		return fmt.Errorf("%s does not have %q", path, from)
	}
	return write(path, []byte(strings.Replace(string(text), from, to, 1)))
}

// write writes a file whole: the agents watch the folder.
func write(path string, text []byte) error {
	unfinished := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(unfinished, text, 0o644); err != nil {
		return err
	}
	return os.Rename(unfinished, path)
}
