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
	// Name is the name of the file, in its folder.
	Name string
	// Own: podfence connects the pods by it, and nobody else has written it.
	Own bool
	// Calls: the plugin podfence is called by it, be it behind another plugin, or by a
	// plugin that delegates to it or to a configuration of it, as Multus does.
	Calls bool
	// Chained: it is called only behind the plugin that connects the pods.
	Chained bool
}

// reading is a configuration and what it takes to know what it calls.
type reading struct {
	Configuration
	network    string   // its name
	references []string // to others, by network or path
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
	var readings []reading
	for _, entry := range entries {
		// The extensions that libcni is asked for.
		if entry.IsDir() || !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(entry.Name())) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("look for network configurations: %w", err)
		}
		readings = append(readings, read(entry.Name(), text))
	}
	follow(readings)
	for _, r := range readings {
		all = append(all, r.Configuration)
	}
	return all, nil
}

// read reads a configuration. One that is not valid calls nobody.
func read(name string, text []byte) reading {
	c := reading{Configuration: Configuration{Name: name, Own: own(text)}}
	var value map[string]any
	if json.Unmarshal(text, &value) != nil {
		return c
	}
	bridge, chained := c.mentions(value)
	c.Calls, c.Chained = bridge || chained, chained && !bridge
	c.network, _ = value["name"].(string)
	return c
}

// follow notes for each configuration that refers to another one of the folder that it calls what
// the other calls.
func follow(all []reading) {
	for i := range all {
		c := &all[i]
		if !c.Calls && slices.Contains(c.references, Network) { // whose file may not be there yet
			c.Calls = true
		}
		for _, other := range all {
			if !c.Calls && other.Calls && slices.ContainsFunc(c.references, func(to string) bool { return to == other.network || filepath.Base(to) == other.Name }) {
				c.Calls, c.Chained = true, other.Chained
			}
		}
	}
}

// Shadowed fails if podfence connects the pods, and a configuration by which it does not
// comes before the one of this name: the runtime connects pods by that.
func Shadowed(dir, name string) error {
	all, err := Configurations(dir)
	if err != nil {
		return err
	}
	if len(all) == 0 || all[0].Name >= name || all[0].Calls && !all[0].Chained {
		return nil
	}
	first := filepath.Join(dir, all[0].Name)
	if all[0].Chained {
		return fmt.Errorf("%s comes before %s, and calls podfence behind another plugin, which with --cni bridge no agent answers, so that no pod can start: remove the file, or have podfence's sort before it by --cni-conf-name 00-podfence.conflist", first, name)
	}
	return fmt.Errorf("%s comes before %s, so the container runtime connects pods by it, past podfence: remove the file, or have podfence's sort before it by --cni-conf-name 00-podfence.conflist; then restart the pods that it has connected",
		first, name)
}

// Unchained fails if podfence is to be called behind the plugin that connects the pods,
// and the configuration that the runtime takes does not call it.
func Unchained(dir string) error {
	all, err := Configurations(dir)
	if err != nil || len(all) == 0 || all[0].Own || all[0].Chained {
		return err
	}
	return fmt.Errorf("%s is the configuration that the container runtime takes, and does not call podfence behind the plugin that connects the pods, so new pods are not fenced before the API shows their addresses: add {\"type\":\"podfence\",\"mode\":\"chained\"} to the end of its plugins, where the other plugin's installation makes it from, too; then restart the pods that have started meanwhile",
		filepath.Join(dir, all[0].Name))
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

// multusKeys are where Multus' configuration names networks, by name or path.
var multusKeys = []string{"clusterNetwork", "defaultNetworks", "readinessindicatorfile"}

// mentions reports whether somewhere in a configuration podfence's plugin is called, for
// its own network and behind another plugin, and notes what it refers to.
func (c *reading) mentions(value any) (bridge, chained bool) {
	both := func(inner any) {
		b, ch := c.mentions(inner)
		bridge, chained = bridge || b, chained || ch
	}
	switch value := value.(type) {
	case []any:
		for _, inner := range value {
			both(inner)
		}
	case map[string]any:
		if value["type"] == Plugin {
			chained = value["mode"] == chainedMode
			bridge = !chained
		}
		for key, inner := range value {
			if slices.Contains(multusKeys, key) {
				c.refer(inner)
			}
			both(inner)
		}
	case string:
		// Podfence's own file may not be there yet.
		bridge = strings.Contains(value, "/") && isConflist(value)
	}
	return bridge, chained
}

// refer notes a network's name or path, or a list of them.
func (c *reading) refer(to any) {
	switch to := to.(type) {
	case string:
		c.references = append(c.references, to)
	case []any:
		for _, entry := range to {
			c.refer(entry)
		}
	}
}

// isConflist reports whether a text is the path of a configuration of podfence's, as
// Multus' clusterNetwork may be.
func isConflist(text string) bool {
	base := filepath.Base(text)
	return strings.HasSuffix(base, ".conflist") && strings.Contains(base, Plugin)
}
