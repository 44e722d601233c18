package cli

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/policy"
)

// dnsFlags are about domain names in policies.
type dnsFlags struct {
	service string
	servers []string
	minTTL  time.Duration
	queue   uint16
}

func (d *dnsFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&d.service, "dns-service", "kube-system/kube-dns", "namespace/name of the cluster's DNS Service: with its addresses and those of its endpoints it is the resolver whose answers say which addresses domain names in policies have; empty: none is")
	f.StringSliceVar(&d.servers, "dns-server", nil, "more resolvers whose answers count, as pods write their addresses: ip, or ip:port; a node-local cache, for example, is 169.254.20.10")
	f.DurationVar(&d.minTTL, "dns-min-ttl", 10*time.Second, "for how long an answer counts at least for new connections, however short its TTL is")
	f.Uint16Var(&d.queue, "nfqueue", 28775, "nfqueue in which answers wait until the addresses of domain names are in the kernel, and nflog group in which the agent sees queries; no other program may read it; 0: what pods are told is not learned, and only names without * are known, which the agent resolves itself")
}

func (d *dnsFlags) options() (o agent.DNS, err error) {
	if d.minTTL < time.Second || d.minTTL > time.Hour {
		return o, fmt.Errorf("--dns-min-ttl is %s: it must be 1s to 1h", d.minTTL)
	}
	o = agent.DNS{MinTTL: d.minTTL, Queue: d.queue}
	if d.service != "" {
		namespace, name, ok := strings.Cut(d.service, "/")
		if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
			return o, fmt.Errorf("--dns-service is %q: it must be namespace/name, such as kube-system/kube-dns, or empty", d.service)
		}
		o.Service = policy.Key{Namespace: namespace, Name: name}
	}
	for _, text := range d.servers {
		server, err := resolver(text)
		if err != nil {
			return o, fmt.Errorf("--dns-server is %q: it must be an IP address, with a port if that is not 53: %w", text, err)
		}
		o.Servers = append(o.Servers, server)
	}
	return o, nil
}

// resolver reads the address of a resolver, whose port is 53 unless it says another.
func resolver(text string) (netip.AddrPort, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(addr.Unmap(), 53), nil
	}
	server, err := netip.ParseAddrPort(text)
	return netip.AddrPortFrom(server.Addr().Unmap(), server.Port()), err
}
