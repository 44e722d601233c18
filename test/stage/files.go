package stage

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/podfence/podfence/cni/install"
)

// clusterYAML are the nodes, namespaces and policies that the agent is shown.
func (s *Stage) clusterYAML() string {
	var b strings.Builder
	for i := 1; i <= 2; i++ {
		ranges := quoted(s.Families.Some(fmt.Sprintf("10.244.%d.0", i), fmt.Sprintf("fd00:10:244:%d::", i)), map[bool]string{false: "/24", true: "/64"})
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Node\nmetadata: {name: node-%d}\nspec: {podCIDRs: [%s]}\nstatus: {addresses: [", i, ranges)
		for _, a := range s.Families.Some(fmt.Sprintf("192.0.2.%d", i), fmt.Sprintf("2001:db8:0:1::%d", i)) {
			fmt.Fprintf(&b, "{type: InternalIP, address: %q},", a)
		}
		b.WriteString("]}\n")
	}
	return b.String() + `---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: hall}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: default-deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
`
}

func quoted(addrs []netip.Addr, suffix map[bool]string) string {
	var all []string
	for _, a := range addrs {
		all = append(all, fmt.Sprintf("%q", a.String()+suffix[a.Is6()]))
	}
	return strings.Join(all, ", ")
}

// podsYAML are the pods, with the addresses of those that have some.
func (s *Stage) podsYAML() string {
	var b strings.Builder
	for id, key := range s.pods {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Pod\nmetadata: {namespace: %s, name: %s, uid: uid-%s}\n", key.Namespace, key.Name, key.Name)
		b.WriteString("spec: {nodeName: node-1, containers: [{name: main, image: main}]}\n")
		a := s.Actors[id]
		if a == nil {
			b.WriteString("status: {phase: Pending}\n")
			continue
		}
		fmt.Fprintf(&b, "status: {phase: Running, podIP: %q, podIPs: [", a.Host.IPs[0])
		for _, ip := range a.Host.IPs {
			fmt.Fprintf(&b, "{ip: %q},", ip)
		}
		b.WriteString("]}\n")
	}
	return b.String()
}

// conflist is what the container runtime would call.
func (s *Stage) conflist() (*libcni.NetworkConfigList, error) {
	if s.Mode.Own() {
		data, err := os.ReadFile(filepath.Join(s.path("net.d"), install.ConflistName))
		if err != nil {
			return nil, err
		}
		return libcni.ConfListFromBytes(data)
	}
	var ranges, routes []any
	for _, a := range s.Families.Some("10.244.1.0", "fd00:10:244:1::") {
		bits, all := "/24", "0.0.0.0/0"
		if a.Is6() {
			bits, all = "/64", "::/0"
		}
		ranges = append(ranges, []any{map[string]any{"subnet": a.String() + bits}})
		routes = append(routes, map[string]any{"dst": all})
	}
	ipam := map[string]any{"type": "host-local", "dataDir": s.path("ipam"), "ranges": ranges, "routes": routes}
	plugins := []any{map[string]any{"type": s.Mode.By, "bridge": ForeignBridge, "isGateway": !s.Mode.Beside, "vlan": s.Mode.VLAN, "hairpinMode": true, "ipam": ipam}}
	if s.Mode.CNI == "chained" {
		plugins = append(plugins, map[string]any{"type": "podfence", "mode": "chained", "socket": s.path("agent.sock")})
	}
	data, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "pods", "plugins": plugins})
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromBytes(data)
}
