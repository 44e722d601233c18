package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/podfence/podfence/cni/handshake"
)

// The defaults of a Config.
const (
	DefaultBridge  = "podfence0"
	DefaultDataDir = "/var/lib/cni/podfence"
	DefaultTimeout = 10 * time.Second
)

// ModeChained is the Mode that leaves the pod's link to the plugin before.
const ModeChained = "chained"

// Config is the network configuration, as ReadConfig returns it: complete.
// Keys that it doesn't know are the runtime's business and ignored.
type Config struct {
	// CNIVersion is the version of the specification that the result is in.
	CNIVersion string `json:"cniVersion"`
	// Name is the name of the network.
	Name string `json:"name"`
	// Mode is empty, or ModeChained: another plugin has connected the pod, and
	// the agent is told.
	Mode string `json:"mode"`
	// Bridge is the bridge's name; empty is DefaultBridge.
	Bridge string `json:"bridge"`
	// PodCIDRs are the node's pod ranges, at most one of each family.
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
	// MTU is the MTU of the pods' links; 0 stands for that of the link with the default
	// route.
	MTU int `json:"mtu"`
	// Socket is where the agent listens; empty is handshake.DefaultSocket.
	Socket string `json:"socket"`
	// TimeoutSeconds is how long ADD waits for the agent; 0 is DefaultTimeout.
	TimeoutSeconds int `json:"timeout"`
	// DataDir is where the leases are; empty is DefaultDataDir.
	DataDir string `json:"dataDir"`
	// DNS is passed on in the result.
	DNS types.DNS `json:"dns"`
	// NoHostPort says why hostPort does nothing on this node; empty: another plugin
	// serves it.
	NoHostPort string `json:"noHostPort"`
	// RuntimeConfig is what the runtime says of the pod to plugins that declare the
	// capability, unread.
	RuntimeConfig json.RawMessage `json:"runtimeConfig"`

	// PrevResult is what the plugin before, or for CHECK this plugin, has
	// returned, or nil.
	PrevResult *current.Result `json:"-"`
	// Valid are GC's valid attachments. It is nil if the configuration doesn't
	// have the key, and empty if there are none.
	Valid []types.GCAttachment `json:"-"`
}

// Timeout is TimeoutSeconds as a duration.
func (c *Config) Timeout() time.Duration { return time.Duration(c.TimeoutSeconds) * time.Second }

// Chained says whether Mode is ModeChained.
func (c *Config) Chained() bool { return c.Mode == ModeChained }

// ReadConfig reads and checks a network configuration. Its errors have the CNI
// code 6, if it is no JSON, or 7. It does not ask for PodCIDRs: DEL must work
// without.
func ReadConfig(stdin []byte) (*Config, error) {
	c := &Config{}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("network configuration: %v", err), "")
	}
	if err := c.complete(); err != nil {
		return nil, invalidConfig(err)
	}
	var runtime struct {
		PrevResult map[string]any `json:"prevResult"`
		// With no attachments, libcni writes null, which is not the same as no
		// key at all.
		Valid json.RawMessage `json:"cni.dev/valid-attachments"`
	}
	if err := json.Unmarshal(stdin, &runtime); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("network configuration: %v", err), "")
	}
	if runtime.Valid != nil {
		c.Valid = []types.GCAttachment{}
		if err := json.Unmarshal(runtime.Valid, &c.Valid); err != nil {
			return nil, invalidConfig(fmt.Errorf("cni.dev/valid-attachments: %w", err))
		}
		if c.Valid == nil {
			c.Valid = []types.GCAttachment{}
		}
	}
	if runtime.PrevResult != nil {
		if err := c.readPrevResult(runtime.PrevResult); err != nil {
			return nil, invalidConfig(fmt.Errorf("prevResult: %w", err))
		}
	}
	return c, nil
}

func (c *Config) readPrevResult(raw map[string]any) error {
	for key, value := range raw {
		// The library, and all that reads its lists, takes each entry for one.
		if list, is := value.([]any); is && slices.ContainsFunc(list, func(entry any) bool { return entry == nil }) {
			return fmt.Errorf("%s: an entry is null", key)
		}
	}
	conf := types.PluginConf{CNIVersion: c.CNIVersion, RawPrevResult: raw}
	if err := version.ParsePrevResult(&conf); err != nil {
		return err
	}
	result, err := current.NewResultFromResult(conf.PrevResult)
	if err != nil {
		return err
	}
	c.PrevResult = result
	return nil
}

// complete sets the defaults and checks the values.
func (c *Config) complete() error {
	if c.Mode != "" && !c.Chained() {
		return fmt.Errorf("mode %q: it is empty or %q", c.Mode, ModeChained)
	}
	for value, byDefault := range map[*string]string{
		&c.Bridge: DefaultBridge, &c.DataDir: DefaultDataDir, &c.Socket: handshake.DefaultSocket,
	} {
		if *value == "" {
			*value = byDefault
		}
	}
	if err := utils.ValidateInterfaceName(c.Bridge); err != nil {
		return fmt.Errorf("bridge %q: %w", c.Bridge, err)
	}
	if !filepath.IsAbs(c.DataDir) {
		return fmt.Errorf("dataDir %q: not an absolute path", c.DataDir)
	}
	if !filepath.IsAbs(c.Socket) {
		return fmt.Errorf("socket %q: not an absolute path", c.Socket)
	}
	switch {
	case c.TimeoutSeconds < 0 || c.TimeoutSeconds > 3600:
		return fmt.Errorf("timeout %d: not from 1 to 3600 seconds", c.TimeoutSeconds)
	case c.TimeoutSeconds == 0:
		c.TimeoutSeconds = int(DefaultTimeout / time.Second)
	}
	v6, err := checkCIDRs(c.PodCIDRs)
	if err != nil {
		return fmt.Errorf("podCIDRs: %w", err)
	}
	// RFC 791 and RFC 8200: Linux ends IPv6 on a link with less.
	least := 68
	if v6 {
		least = 1280
	}
	if c.MTU != 0 && (c.MTU < least || c.MTU > 65535) {
		return fmt.Errorf("mtu %d: not from %d to 65535", c.MTU, least)
	}
	return nil
}

// checkCIDRs also says whether one of the ranges is of IPv6.
func checkCIDRs(cidrs []netip.Prefix) (v6 bool, err error) {
	seen := map[bool]netip.Prefix{}
	for _, p := range cidrs {
		switch {
		// In JSON, the zero Prefix is the empty string.
		case !p.IsValid():
			return v6, errors.New("an empty one")
		case p.Addr().Is4In6():
			return v6, fmt.Errorf("%s: an IPv4 range written as IPv6", p)
		case p != p.Masked():
			return v6, fmt.Errorf("%s: %s is meant, or not", p, p.Masked())
		case p.Addr().BitLen()-p.Bits() < 2:
			return v6, fmt.Errorf("%s: too small, the gateway needs an address, too", p)
		case !p.Addr().IsGlobalUnicast() || p.Bits() < 3:
			return v6, fmt.Errorf("%s: not a range of unicast addresses", p)
		}
		if other, twice := seen[p.Addr().Is4()]; twice {
			return v6, fmt.Errorf("%s and %s: a node has one range of each family", other, p)
		}
		seen[p.Addr().Is4()] = p
		v6 = v6 || p.Addr().Is6()
	}
	return v6, nil
}

// Gateway is the pods' gateway in a pod CIDR, its first address. The bridge has
// it.
func Gateway(podCIDR netip.Prefix) netip.Addr { return podCIDR.Masked().Addr().Next() }

// readPod says which pod a container belongs to, by the CNI_ARGS that container
// runtimes set for Kubernetes. What else is in them is not this plugin's. Its
// errors have the CNI code 4.
func readPod(cniArgs string) (handshake.Pod, error) {
	var pod handshake.Pod
	for _, pair := range strings.Split(cniArgs, ";") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok && pair != "" {
			return pod, invalidEnvironment("CNI_ARGS", fmt.Errorf("%q is not of the form KEY=VALUE", pair))
		}
		switch key {
		case "K8S_POD_NAMESPACE":
			pod.Namespace = value
		case "K8S_POD_NAME":
			pod.Name = value
		case "K8S_POD_UID":
			pod.UID = value
		}
	}
	if pod.Namespace == "" || pod.Name == "" {
		return pod, invalidEnvironment("CNI_ARGS", errors.New("K8S_POD_NAMESPACE and K8S_POD_NAME must be in it: "+
			"policy is about pods, and a container without one can't be fenced"))
	}
	return pod, nil
}
