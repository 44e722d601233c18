package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podfence/podfence/agent"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
)

// faulty is a kernel that does not do the next transaction as it should.
type faulty struct {
	*kernel.Conn
	next atomic.Pointer[func(*kernel.Conn, nft.Plan) error]
}

func (k *faulty) Apply(plan nft.Plan) error {
	if fault := k.next.Swap(nil); fault != nil {
		return (*fault)(k.Conn, plan)
	}
	return k.Conn.Apply(plan)
}

// badly are the ways.
var badly = []func(*kernel.Conn, nft.Plan) error{
	func(*kernel.Conn, nft.Plan) error { // it never gets there
		return &kernel.OpError{Op: "apply", Err: unix.ENOBUFS}
	},
	func(c *kernel.Conn, plan nft.Plan) error { // it is carried out, and nobody says so
		return &kernel.OpError{Op: "apply", Err: errors.Join(kernel.ErrUnknown, c.Apply(plan))}
	},
	func(c *kernel.Conn, plan nft.Plan) error { // the kernel refuses it
		plan.Ops = append(plan.Ops[:len(plan.Ops):len(plan.Ops)], nft.DeleteChain{Name: "nosuch"})
		return c.Apply(plan)
	},
}

// TestNetlink has the kernel refuse or drop transactions while changes come in and
// packets pass: what is denied must stay so, what is allowed must go on, and the
// change must come into force at last.
func TestNetlink(t *testing.T) {
	l := check.Value(lab.New(lab.Options{}))(t)
	t.Cleanup(func() { _ = l.Close() })
	node := check.Value(l.AddNode("node", netip.MustParseAddr("192.0.2.1")))(t)
	hosts := map[string]*lab.Host{}
	for i, name := range []string{"caller", "open", "shut"} {
		hosts[name] = check.Value(node.AddPod(name, lab.PodOptions{IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(2 + i)})}}))(t)
	}
	const port = 7000
	arrived := countArrivals(t, hosts["shut"], port)
	forbid := func() error { return sendOne(hosts["caller"], netip.AddrPortFrom(hosts["shut"].IPs[0], port)) }
	if err := forbid(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); arrived.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("without an agent no packet arrives: nothing can be told by them")
		}
	}

	k := &faulty{Conn: check.Value(kernel.Open(kernel.Options{NetNS: node.NetNS()}))(t)}
	t.Cleanup(func() { _ = k.Close() })
	agent := check.Value(agent.New(k, agent.Options{
		Node: "node", Manifests: t.TempDir(), MetricsAddress: "0", HealthAddress: "0",
		Registry: prometheus.NewRegistry(), Log: logr.Discard(),
	}))(t)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(cancel)
	running.Go(func() {
		if err := agent.Start(ctx); err != nil {
			t.Error(err)
		}
	})
	changes := []policy.Change{
		policy.SetNode(policy.Node{Name: "node", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}),
		policy.SetPolicy(policy.Policy{Key: policy.Key{Namespace: "shop", Name: "shut"}, Subject: &policy.Selector{Namespace: "shop", Pods: "app=shut"}, Isolates: [2]bool{true}}),
	}
	for name, host := range hosts {
		changes = append(changes, policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: name}, Node: "node", Labels: policy.LabelsOf(map[string]string{"app": name}), IPs: host.IPs}))
	}
	agent.Enforcer.Feed(changes...)
	settle := func() {
		t.Helper()
		limited, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		if err := agent.Enforcer.Sync(limited); err != nil {
			t.Fatal(err)
		}
	}
	settle()
	arrived.Store(0)

	check.Value(hosts["open"].Serve(policy.TCP, port))(t)
	kept := check.Value(hosts["caller"].Dial(ctx, policy.TCP, netip.AddrPortFrom(hosts["open"].IPs[0], port)))(t)
	defer kept.Close()
	var o outcome
	var quiet silence
	echo := func() {
		o.allowed++
		began := time.Now()
		if err := lab.Echo(kept, []byte("kept"), 10*time.Second); err != nil {
			o.broken++
			return
		}
		quiet.heard(time.Since(began))
	}
	var traffic sync.WaitGroup
	stop := make(chan struct{})
	traffic.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			if err := forbid(); err == nil {
				o.denied++
			}
			if echo(); o.broken > 0 {
				return
			}
		}
	})
	for i := range times(100) * len(badly) {
		k.next.Store(&badly[i%len(badly)])
		began := time.Now()
		key := policy.Key{Namespace: "shop", Name: fmt.Sprintf("change-%d", i/2)}
		change := policy.DeletePolicy(key)
		if i%2 == 0 {
			change = policy.SetPolicy(policy.Policy{Key: key, Subject: &policy.Selector{Namespace: "shop", Pods: "app=open"}, Isolates: [2]bool{true}, Rules: [2][]policy.Rule{{
				{Peers: []policy.Selector{{Namespace: "shop", Pods: "app=caller"}}, Ports: []policy.PortRange{{Protocol: policy.TCP, First: port, Last: uint16(port + i)}}},
			}}})
		}
		agent.Enforcer.Feed(change)
		settle()
		o.times++
		o.repair = max(o.repair, time.Since(began))
		if k.next.Load() != nil {
			t.Fatal("the change was no transaction")
		}
	}
	close(stop)
	traffic.Wait()
	echo() // after the last fault
	time.Sleep(quiet.lasts())
	o.leaked = arrived.Load()
	record(t, "the kernel refuses or drops a transaction", o)
}

// countArrivals counts the datagrams that arrive at a port of a host until the test ends.
func countArrivals(t *testing.T, host *lab.Host, port uint16) *atomic.Int64 {
	t.Helper()
	var n atomic.Int64
	var conn net.PacketConn
	err := host.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", netip.AddrPortFrom(host.IPs[0], port).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	t.Cleanup(reading.Wait)
	t.Cleanup(func() { _ = conn.Close() })
	reading.Go(func() {
		for {
			if _, _, err := conn.ReadFrom(make([]byte, 1)); errors.Is(err, net.ErrClosed) {
				return
			} else if err == nil {
				n.Add(1)
			}
		}
	})
	return &n
}

// sendOne sends one datagram of a new flow.
func sendOne(from *lab.Host, to netip.AddrPort) error {
	conn, err := from.Dial(context.Background(), policy.UDP, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte("x"))
	return err
}
