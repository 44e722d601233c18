package agent

import (
	"fmt"
	"net"
	"net/url"
	"sync"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/podfence/podfence/test/lab"
)

// Relay lets a node reach an API server on this machine's loopback at the same
// address: it listens on the node's own loopback. Nothing else of the machine is
// to be seen from the node. It may be told to be in the way. Its methods may be
// called from any goroutine.
type Relay struct {
	listen func() (net.Listener, error)
	target string

	mu   sync.Mutex
	pass *sync.Cond // mu's: silent or closed has changed
	// listener is nil while connections are refused.
	listener net.Listener
	// silent: nothing is passed on. generation counts up when silence ends for
	// new connections alone.
	silent     bool
	generation int
	closed     bool
	open       map[net.Conn]struct{}
	done       sync.WaitGroup
}

// NewRelay starts a relay on a node, for a kubeconfig's API server.
func NewRelay(node *lab.Node, kubeconfig []byte) (*Relay, error) {
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	server, err := url.Parse(config.Host)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return relayTo(server.Host, func() (l net.Listener, err error) {
		err = node.Do(func() (err error) {
			l, err = net.Listen("tcp", server.Host)
			return err
		})
		return l, err
	})
}

// NewLocalRelay starts a relay on this machine's loopback, at an address of its
// own, for agents that run in this process. It returns that address too.
func NewLocalRelay(target string) (*Relay, string, error) {
	address := "127.0.0.1:0"
	r, err := relayTo(target, func() (net.Listener, error) {
		l, err := net.Listen("tcp", address)
		if err == nil {
			address = l.Addr().String() // from now on
		}
		return l, err
	})
	return r, address, err
}

func relayTo(target string, listen func() (net.Listener, error)) (*Relay, error) {
	r := &Relay{listen: listen, target: target, open: map[net.Conn]struct{}{}}
	r.pass = sync.NewCond(&r.mu)
	return r, r.Heal()
}

// Refuse cuts all connections and refuses new ones, until Heal.
func (r *Relay) Refuse() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hangUp()
}

// hangUp closes the listener and all connections, under mu.
func (r *Relay) hangUp() {
	if r.listener != nil {
		_ = r.listener.Close()
		r.listener = nil
	}
	for c := range r.open {
		_ = c.Close() // one that the other side has closed already
	}
}

// Silence accepts connections and passes nothing on, of those that are open neither,
// until Heal.
func (r *Relay) Silence() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.silent = true
}

// Forsake has the connections of until now stay silent for ever, and new ones not.
func (r *Relay) Forsake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.silent = false
	r.generation++
}

// Heal has the relay pass everything on again, what waits first.
func (r *Relay) Heal() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	r.silent = false
	r.pass.Broadcast()
	if r.listener != nil {
		return nil
	}
	l, err := r.listen()
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	r.listener = l
	r.done.Go(func() { r.accept(l) })
	return nil
}

// Close ends the relay and all connections.
func (r *Relay) Close() error {
	r.mu.Lock()
	r.closed = true
	r.hangUp()
	r.pass.Broadcast()
	r.mu.Unlock()
	r.done.Wait()
	return nil
}

func (r *Relay) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return // closed
		}
		r.done.Go(func() { r.serve(client) })
	}
}

// serve joins a connection to one to the server, until either side hangs up.
func (r *Relay) serve(client net.Conn) {
	defer r.drop(client)
	generation, ok := r.keep(client)
	if !ok {
		return
	}
	server, err := net.Dial("tcp", r.target)
	if err != nil {
		return // the client sees its connection closed
	}
	defer r.drop(server)
	if _, ok := r.keep(server); !ok {
		return
	}
	r.done.Go(func() {
		_ = r.copy(server, client, generation)
		_ = server.Close()
	})
	_ = r.copy(client, server, generation)
}

// copy passes on what it reads, when the relay lets it.
func (r *Relay) copy(to, from net.Conn, generation int) error {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if !r.mayPass(generation) {
				return net.ErrClosed
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			// That one side has hung up is not passed on either.
			r.mayPass(generation)
			return err
		}
	}
}

// mayPass waits until something of a connection may be passed on; false: never.
func (r *Relay) mayPass(generation int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for !r.closed && (r.silent || generation < r.generation) {
		r.pass.Wait()
	}
	return !r.closed
}

// keep remembers a connection, to be closed with the relay; false: it is closed, or
// refuses.
func (r *Relay) keep(c net.Conn) (generation int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.listener == nil {
		return 0, false
	}
	r.open[c] = struct{}{}
	return r.generation, true
}

func (r *Relay) drop(c net.Conn) {
	_ = c.Close()
	r.mu.Lock()
	delete(r.open, c)
	r.mu.Unlock()
}
