package manifests

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// folder writes files below a new folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		write(t, filepath.Join(dir, name), content)
	}
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func nodeYAML(name string) string {
	return "apiVersion: v1\nkind: Node\nmetadata:\n  name: " + name + "\n"
}

// loaded are the names of the nodes of a folder.
func loaded(t *testing.T, path string) []string {
	t.Helper()
	s, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range s.Nodes {
		names = append(names, n.Name)
	}
	return names
}

func TestLoadKubectl(t *testing.T) {
	s, err := Load(folder(t, map[string]string{"all.yaml": kubectl}))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Pods) != 1 || len(s.Namespaces) != 1 || len(s.Policies) != 1 || len(s.ClusterPolicies) != 1 || len(s.Nodes) != 1 {
		t.Fatalf("read %v", s)
	}
	if s.Pods[0].Status.PodIPs[1].IP != "fd00:10:244:1::7" || s.Namespaces[0].Labels["team"] != "shop" ||
		s.Policies[0].Spec.Ingress[0].Ports[1].Port.IntVal != 6000 || s.Nodes[0].Spec.PodCIDRs[1] != "fd00:10:244:1::/64" ||
		s.ClusterPolicies[0].Spec.Egress[0].To[0].Networks[0] != "169.254.169.254/32" {
		t.Errorf("read %v", s)
	}
}

func TestLoadFolder(t *testing.T) {
	dir := folder(t, map[string]string{
		"b.yaml": nodeYAML("b"), "a.yml": nodeYAML("c"), "sub/deep/x.json": `{"apiVersion":"v1","kind":"Node","metadata":{"name":"a"}}`,
		"README.md": "{", "c.yaml~": "{", ".hidden.yaml": "{", ".git/x.yaml": "{",
	})
	if got := loaded(t, dir); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("read %v", got)
	}
	if got := loaded(t, filepath.Join(dir, "b.yaml")); !slices.Equal(got, []string{"b"}) {
		t.Errorf("read %v", got)
	}
	if got := loaded(t, t.TempDir()); got != nil {
		t.Errorf("read %v from an empty folder", got)
	}
}

// mount makes a folder like that of a mounted ConfigMap, and returns how to
// update it.
func mount(t *testing.T) (dir string, update func(version string, files map[string]string)) {
	t.Helper()
	dir = t.TempDir()
	old := ""
	return dir, func(version string, files map[string]string) {
		t.Helper()
		for name, content := range files {
			write(t, filepath.Join(dir, version, name), content)
			first, _, _ := strings.Cut(name, "/")
			if _, err := os.Lstat(filepath.Join(dir, first)); err != nil {
				symlink(t, "..data/"+first, filepath.Join(dir, first))
			}
		}
		symlink(t, version, filepath.Join(dir, "..data_tmp"))
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
		if old != "" {
			if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
				t.Fatal(err)
			}
		}
		old = version
	}
}

func TestLoadConfigMapMount(t *testing.T) {
	dir, update := mount(t)
	update("..2026_1", map[string]string{"a.yaml": nodeYAML("a"), "sub/b.yaml": nodeYAML("b")})
	if got := loaded(t, dir); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("read %v", got)
	}
	update("..2026_2", map[string]string{"a.yaml": nodeYAML("c"), "sub/b.yaml": nodeYAML("d")})
	if got := loaded(t, dir); !slices.Equal(got, []string{"c", "d"}) {
		t.Errorf("read %v after the update", got)
	}
}

// TestLoadDuringUpdates: files of two versions of a mount never come together.
func TestLoadDuringUpdates(t *testing.T) {
	dir, update := mount(t)
	files := func(version string) map[string]string {
		all := map[string]string{}
		for i := range 20 {
			name := fmt.Sprintf("n%02d", i)
			all[name+".yaml"] = nodeYAML(version + "-" + name)
		}
		return all
	}
	update("..v0", files("v0"))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			names := strings.Fields(nodesOf(dir))
			for _, name := range names {
				if version, _, _ := strings.Cut(names[0], "-"); !strings.HasPrefix(name, version+"-") && name != "error" {
					t.Errorf("%s and %s were read together", names[0], name)
					return
				}
			}
		}
	}()
	for i := 1; i <= 100; i++ {
		version := fmt.Sprintf("v%d", i)
		update(".."+version, files(version))
	}
	close(stop)
	<-done
}

// TestLoadReportsAll: the findings of all files, in order, and the text of an
// operating system's error once.
func TestLoadReportsAll(t *testing.T) {
	dir := folder(t, map[string]string{
		"a.yaml":   nodeYAML("a") + "---\n" + policyWith("spec:\n  podSelector: {}\n  ingress:\n  - from:\n    - podSelector: {}\n    - ipBlock: {cidr: x}\n  polcyTypes: []\n"),
		"b.yaml":   nodeYAML("a"),
		"c.yaml":   "a: b: c\n",
		"d/x.yaml": nodeYAML("x") + "spec: {podCIDRs: [z]}\n",
	})
	symlink(t, "nowhere", filepath.Join(dir, "e.yaml"))
	symlink(t, "..", filepath.Join(dir, "d", "up"))
	_, err := Load(dir)
	if err == nil {
		t.Fatal("no error")
	}
	real, evalErr := filepath.EvalSymlinks(dir)
	if evalErr != nil {
		t.Fatal(evalErr)
	}
	got := strings.ReplaceAll(err.Error(), dir+"/", "")
	want := `a.yaml:14: NetworkPolicy shop/db: spec.ingress[0].from[1].ipBlock.cidr: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)
a.yaml:15: NetworkPolicy shop/db: spec.polcyTypes: unknown field
b.yaml:4: Node a: metadata.name: Duplicate value: "a": the same object is at a.yaml:4
c.yaml:1: mapping values are not allowed in this context
d/up: leads to ` + real + `, which is read already
d/x.yaml:5: Node x: spec.podCIDRs[0]: Invalid value: "z": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)
e.yaml: no such file or directory`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}

	var finding *Error
	var invalid *field.Error
	if !errors.As(err, &finding) || finding.Line != 14 || finding.Field != "spec.ingress[0].from[1].ipBlock.cidr" || !errors.As(err, &invalid) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the findings cannot be told apart: %#v", finding)
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "none")); err == nil || err.Error() != dir+"/none: no such file or directory" {
		t.Errorf("a missing folder: %v", err)
	}
	large := filepath.Join(dir, "large.yaml")
	write(t, large, "")
	if err := os.Truncate(large, maxFile+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || err.Error() != large+": larger than 1 GiB" {
		t.Errorf("a large file: %v", err)
	}
	if err := os.Remove(large); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder.yaml"), 0o755); err != nil { // is a folder like any other
		t.Fatal(err)
	}
	symlink(t, "/dev/zero", filepath.Join(dir, "zero.yaml"))
	if _, err := Load(dir); err == nil || err.Error() != dir+"/zero.yaml: not a regular file" {
		t.Errorf("a device: %v", err)
	}
	if os.Getuid() == 0 {
		return // root reads everything
	}
	if err := os.Chmod(dir, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || err.Error() != dir+": permission denied" {
		t.Errorf("an unreadable folder: %v", err)
	}
}
