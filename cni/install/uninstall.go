package install

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// program is the main package of the plugin, which every build of it has written in it.
const program = "github.com/podfence/podfence/cni/podfence-cni"

// Configurations are the files in a folder by which a container runtime calls podfence's
// plugin: own are those of podfence's network, whatever their names, and chained those of
// other networks that have the plugin behind their own. A file that cannot be read as a
// configuration calls nobody, and a folder that is not there has none.
func Configurations(dir string) (own, chained []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("network configurations: %w", err)
	}
	for _, entry := range entries {
		// The extensions that libcni's ConfFiles takes.
		if !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(entry.Name())) {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("network configurations: %w", err)
		}
		switch calls, behind := callsPlugin(text); {
		case calls && behind:
			chained = append(chained, path)
		case calls || entry.Name() == ConflistName:
			own = append(own, path)
		}
	}
	return own, chained, nil
}

// callsPlugin reads a configuration of one plugin or of a list. behind: it is another's
// network.
func callsPlugin(text []byte) (calls, behind bool) {
	type entry struct{ Type, Mode string }
	var conf struct {
		entry
		Plugins []entry
	}
	if json.Unmarshal(text, &conf) != nil {
		return false, false
	}
	for i, p := range append([]entry{conf.entry}, conf.Plugins...) {
		if p.Type == Plugin {
			calls, behind = true, behind || p.Mode != "" || i > 1
		}
	}
	return calls, behind
}

// RemoveConfigurations takes away those of podfence's network, so that the node gets no
// more pods of it. It returns their paths.
func RemoveConfigurations(dir string) (removed []string, err error) {
	own, _, err := Configurations(dir)
	if err != nil {
		return nil, err
	}
	for _, path := range own {
		if _, err := remove(dir, filepath.Base(path)); err != nil {
			return removed, err
		}
		removed = append(removed, path)
	}
	return removed, removeUnfinished(dir, ConflistName, 0)
}

// RemovePlugins takes away the plugin, and the loopback plugin if that is podfence's: a
// link to the plugin, or a copy of any version of it. It returns their paths. The runtime
// needs the plugin to remove pods of podfence's network.
func RemovePlugins(dir string) (removed []string, err error) {
	names := []string{Plugin}
	if path := filepath.Join(dir, Loopback); ownLoopback(path) {
		names = []string{Loopback, Plugin}
	}
	for _, name := range names {
		changed, err := remove(dir, name)
		if err != nil {
			return removed, err
		}
		if changed {
			removed = append(removed, filepath.Join(dir, name))
		}
	}
	return removed, nil
}

func ownLoopback(path string) bool {
	if target, err := os.Readlink(path); err == nil {
		return filepath.Base(target) == Plugin
	}
	info, err := buildinfo.ReadFile(path)
	return err == nil && info.Path == program
}
