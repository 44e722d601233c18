package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

const (
	// CNIVersion is the version of the specification that the configuration follows,
	// for runtimes that know no later one, such as containerd 1.7. With an old
	// portmap plugin it is an older one, see HostPorts.
	CNIVersion = "1.0.0"
	// LatestCNIVersion is for runtimes that know a later one: with it they call GC and STATUS.
	// They find it in cniVersions, of which they take the highest that they know.
	LatestCNIVersion = "1.1.0"
	// Network is the network's name: leases are kept under it.
	Network = "podfence"
	// Plugin is the plugin's type, which is its file's name where the container
	// runtime looks for it.
	Plugin = "podfence"
	// chainedMode is the plugin's mode behind one that connects the pods.
	chainedMode = "chained"
	// PortMap is the type of the plugin for hostPort, which is not podfence's.
	PortMap = "portmap"
	// Loopback is the type of the plugin that container runtimes call before a
	// network's own. Nodes have it from their distribution's CNI plugins, if
	// those are installed.
	Loopback = "loopback"
)

// Conf is what the plugin is told. A field that is zero is left out of the configuration, and the
// plugin uses its own default.
type Conf struct {
	// PodCIDRs are the node's pod ranges, at most one of each family. In chained mode there are
	// none.
	PodCIDRs []netip.Prefix
	// MTU is the MTU of the pods' links.
	MTU int
	// Bridge is the name of the pods' bridge.
	Bridge string
	// Socket is where the agent listens.
	Socket string
	// Timeout is how many seconds ADD waits for the agent.
	Timeout int
	// DataDir is where the leases are kept.
	DataDir string
}

// plugin is the plugin's part of the configuration.
type plugin struct {
	Type     string         `json:"type"`
	Mode     string         `json:"mode,omitempty"`
	Bridge   string         `json:"bridge,omitempty"`
	PodCIDRs []netip.Prefix `json:"podCIDRs,omitempty"`
	MTU      int            `json:"mtu,omitempty"`
	Socket   string         `json:"socket,omitempty"`
	Timeout  int            `json:"timeout,omitempty"`
	DataDir  string         `json:"dataDir,omitempty"`
	// Capabilities are what the runtime is to tell about a pod: what podfence does not provide,
	// and so reports.
	Capabilities map[string]bool `json:"capabilities,omitempty"`
	// NoHostPort says why hostPort does nothing.
	NoHostPort string `json:"noHostPort,omitempty"`
}

// portMap is the portmap plugin's part. It lets a pod reach its own hostPort, too (snat): otherwise
// the packet would come back to the pod with its own address as the source.
type portMap struct {
	Type         string          `json:"type"`
	Capabilities map[string]bool `json:"capabilities"`
	SNAT         bool            `json:"snat"`
}

func (c Conf) plugin(mode string) plugin {
	return plugin{
		Type: Plugin, Mode: mode, Bridge: c.Bridge, PodCIDRs: c.PodCIDRs, MTU: c.MTU,
		Socket: c.Socket, Timeout: c.Timeout, DataDir: c.DataDir,
	}
}

// Conflist is the network configuration of a node, with the portmap plugin
// chained if there is one that fits, at a version that both know. If there is none, it
// says why, and has the runtime tell podfence's plugin of hostPorts. The same values
// give the same text. It needs a pod CIDR of which it can tell the pods' addresses.
func Conflist(c Conf, ports HostPorts) ([]byte, error) {
	if len(c.PodCIDRs) == 0 {
		return nil, errors.New("network configuration: no podCIDR")
	}
	seen := map[bool]bool{}
	for _, p := range c.PodCIDRs {
		if !p.IsValid() || p != p.Masked() {
			return nil, fmt.Errorf("network configuration: podCIDR %s is no range", p)
		}
		if seen[p.Addr().Is4()] {
			return nil, fmt.Errorf("network configuration: podCIDR %s is the second of its family", p)
		}
		seen[p.Addr().Is4()] = true
	}
	own := c.plugin("")
	own.Capabilities, own.NoHostPort = map[string]bool{"bandwidth": true}, ports.Without
	plugins, versions := []any{own}, listVersions
	if ports.Without != "" {
		own.Capabilities["portMappings"] = true
	} else {
		plugins = append(plugins, portMap{Type: PortMap, Capabilities: map[string]bool{"portMappings": true}, SNAT: true})
		versions = ports.Versions
	}
	// cniVersion is for runtimes that read one version, and may not know the latest;
	// the others take the highest of cniVersions that they know.
	last := versions[len(versions)-1]
	first := last
	if last == LatestCNIVersion && len(versions) > 1 {
		first = versions[len(versions)-2]
	}
	return marshal(struct {
		CNIVersion  string   `json:"cniVersion"`
		CNIVersions []string `json:"cniVersions"`
		Name        string   `json:"name"`
		Plugins     []any    `json:"plugins"`
	}{first, slices.Compact([]string{first, last}), Network, plugins})
}

// Chain is another network's configuration with podfence's plugin, in its chained mode, behind
// the others. If podfence's plugin is in it already, that is replaced. All else stays as it is,
// except the order of the keys. It is up to the caller to write the result anywhere, as the file
// belongs to somebody else.
func Chain(conflist []byte, c Conf) ([]byte, error) {
	list := map[string]json.RawMessage{}
	if err := json.Unmarshal(conflist, &list); err != nil {
		return nil, fmt.Errorf("chain to network configuration: %w", err)
	}
	var all, plugins []json.RawMessage
	if err := json.Unmarshal(list["plugins"], &all); err != nil {
		return nil, fmt.Errorf("chain to network configuration: it has no list of plugins: %w", err)
	}
	for _, text := range all {
		var p plugin
		if err := json.Unmarshal(text, &struct{ Type *string }{&p.Type}); err != nil {
			return nil, fmt.Errorf("chain to network configuration: %w", err)
		}
		if p.Type != Plugin {
			plugins = append(plugins, text)
		}
	}
	if len(plugins) == 0 {
		return nil, errors.New("chain to network configuration: there is no plugin to chain to")
	}
	c.PodCIDRs = nil
	own, err := json.Marshal(c.plugin(chainedMode))
	if err != nil {
		return nil, fmt.Errorf("chain to network configuration: %w", err)
	}
	if list["plugins"], err = json.Marshal(append(plugins, own)); err != nil {
		return nil, fmt.Errorf("chain to network configuration: %w", err)
	}
	return marshal(list)
}

func marshal(value any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	return text.Bytes(), nil
}
