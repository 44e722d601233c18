package install

import (
	"debug/buildinfo"
	"os"
	"path/filepath"
)

// mainPackage is the main package of the plugin, which every build of it has written in it.
const mainPackage = "github.com/podfence/podfence/cni/podfence-cni"

// OthersCalling are the paths of other networks' configurations in a folder that call
// podfence's plugin: without it the runtime can neither start nor end a pod by them.
func OthersCalling(dir string) (paths []string, err error) {
	all, err := Configurations(dir)
	for _, c := range all {
		if c.Calls && !c.Own && c.Name != ConflistName {
			paths = append(paths, filepath.Join(dir, c.Name))
		}
	}
	return paths, err
}

// RemoveConfigurations takes away those of podfence's network, whatever their names, so
// that the node gets no more pods of it. It returns their paths.
func RemoveConfigurations(dir string) (removed []string, err error) {
	all, err := Configurations(dir)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if !c.Own && c.Name != ConflistName {
			continue
		}
		if _, err := remove(dir, c.Name); err != nil {
			return removed, err
		}
		removed = append(removed, filepath.Join(dir, c.Name))
	}
	return removed, removeUnfinished(dir, ConflistName, 0)
}

// RemovePlugins takes away the plugin, and the loopback plugin if that is podfence's: a
// link to the plugin, or a copy of any version of it. It returns their paths. The runtime
// needs the plugin to remove pods of podfence's network.
func RemovePlugins(dir string) (removed []string, err error) {
	names := []string{Plugin}
	if path := filepath.Join(dir, Loopback); isPlugin(path) {
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

func isPlugin(path string) bool {
	if target, err := os.Readlink(path); err == nil {
		return filepath.Base(target) == Plugin
	}
	info, err := buildinfo.ReadFile(path)
	return err == nil && info.Path == mainPackage
}
