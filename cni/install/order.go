package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Configuration is a file of a folder that a container runtime reads.
type Configuration struct {
	// Name is the file's, in its folder.
	Name string
	// Own: podfence connects the pods by it, and nobody else has written it.
	Own bool
	// Calls: the plugin podfence is called by it, be it behind another plugin, or by a
	// plugin that delegates to it or to a configuration of it, as Multus does.
	Calls bool
}

// Configurations are those that a container runtime sees in a folder, in the order in
// which it looks at them: the first is the network of all pods (sort.Strings in
// containerd/go-cni and in CRI-O's ocicni). One that cannot be read is no reason to leave
// it out: the runtime stops at it. A folder that is not there has none.
func Configurations(dir string) (all []Configuration, err error) {
	entries, err := os.ReadDir(dir) // sorted as runtimes do
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for network configurations: %w", err)
	}
	for _, entry := range entries {
		// The extensions that libcni is asked for.
		if entry.IsDir() || !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(entry.Name())) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("look for network configurations: %w", err)
		}
		all = append(all, Configuration{Name: entry.Name(), Own: own(text), Calls: calls(text)})
	}
	return all, nil
}

// Shadowed fails if a configuration that does not call podfence's plugin comes before
// the one of this name: the runtime connects pods by that.
func Shadowed(dir, name string) error {
	all, err := Configurations(dir)
	if err != nil {
		return err
	}
	if len(all) == 0 || all[0].Name >= name || all[0].Calls {
		return nil
	}
	return fmt.Errorf("%s comes before %s, so the container runtime connects pods by it, past podfence: remove the file, or have podfence's sort before it by --cni-conf-name 00-podfence.conflist; then restart the pods that it has connected",
		filepath.Join(dir, all[0].Name), name)
}

// own reports whether a configuration is one that Conflist has made.
func own(text []byte) bool {
	var list struct {
		Name    string
		Plugins []struct{ Type, Mode string }
	}
	return json.Unmarshal(text, &list) == nil && list.Name == Network && len(list.Plugins) > 0 &&
		list.Plugins[0].Type == Plugin && list.Plugins[0].Mode == ""
}

// calls reports whether somewhere in a configuration there is podfence's plugin, or the
// name of a configuration of it.
func calls(text []byte) bool {
	var value any
	return json.Unmarshal(text, &value) == nil && mentions(value)
}

func mentions(value any) bool {
	switch value := value.(type) {
	case []any:
		return slices.ContainsFunc(value, mentions)
	case map[string]any:
		for key, inner := range value {
			text, isText := inner.(string)
			if mentions(inner) || isText && (key == "type" && text == Plugin || isConflist(text)) {
				return true
			}
		}
	}
	return false
}

// isConflist reports whether a text is the path of a configuration of podfence's, as
// Multus' clusterNetwork may be.
func isConflist(text string) bool {
	base := filepath.Base(text)
	return strings.HasSuffix(base, ".conflist") && strings.Contains(base, Plugin)
}
