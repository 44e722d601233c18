package agent

import (
	"net"
	"net/netip"

	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/hubble"
	"github.com/podfence/podfence/policy"
)

// Hubble says where Hubble's API is served.
type Hubble struct {
	// Address is where; without TLS it must be a loopback address. "0" or empty: nowhere.
	Address string
	TLS     hubble.TLSFiles
}

// serveHubble has the manager serve Hubble's API.
func (a *Agent) serveHubble() (err error) {
	o := a.options
	if o.Hubble.Address == "0" || o.Hubble.Address == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(o.Hubble.Address)
	if err != nil {
		return err
	}
	peers := func() []hubble.Peer { return hubblePeers(a.Enforcer.Nodes(), port) }
	if addr, err := netip.ParseAddr(host); err == nil && addr.Unmap().IsLoopback() {
		// Nobody reaches another node's loopback address.
		peers = func() []hubble.Peer { return []hubble.Peer{{Name: o.Node, Address: o.Hubble.Address}} }
	}
	a.hubble, err = hubble.New(hubble.Options{
		Address: o.Hubble.Address, TLS: o.Hubble.TLS, Node: o.Node, Version: o.Version, Store: a.Flows, Peers: peers,
		Log: o.Log.WithName("hubble"),
	})
	if err != nil {
		return err
	}
	return a.Add(a.hubble)
}

// hubblePeers are the agents of nodes, which all listen on the same port. A node of which no address is
// known is left out until one is.
func hubblePeers(nodes []policy.Node, port string) (all []hubble.Peer) {
	for _, node := range nodes {
		if len(node.Addrs) > 0 {
			all = append(all, hubble.Peer{Name: node.Name, Address: net.JoinHostPort(node.Addrs[0].String(), port)})
		}
	}
	return all
}

// noteHubblePeers has those who asked for the agents of all nodes told of other nodes.
func (a *Agent) noteHubblePeers(outcome enforcer.Outcome) {
	if c, is := outcome.(enforcer.Committed); is && a.hubble != nil && (c.Intent != nil || c.Delta.Cluster != nil) {
		a.hubble.NotePeers()
	}
}
