package agent

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/podfence/podfence/test/lab"
)

// relay lets a node reach an API server on this machine's loopback at the same
// address: it listens on the node's own loopback. Nothing else of the machine is
// to be seen from the node.
type relay struct {
	listener net.Listener
	target   string

	mu     sync.Mutex
	closed bool
	open   map[net.Conn]struct{}
	done   sync.WaitGroup
}

func newRelay(node *lab.Node, kubeconfig []byte) (*relay, error) {
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	server, err := url.Parse(config.Host)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	r := &relay{target: server.Host, open: map[net.Conn]struct{}{}}
	err = node.Do(func() (err error) {
		r.listener, err = net.Listen("tcp", r.target)
		return err
	})
	if err != nil {
		return nil, err
	}
	r.done.Go(r.accept)
	return r, nil
}

func (r *relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return // closed
		}
		r.done.Go(func() { r.serve(client) })
	}
}

// serve joins a connection to one to the server, until either side hangs up.
func (r *relay) serve(client net.Conn) {
	defer r.drop(client)
	if !r.keep(client) {
		return
	}
	server, err := net.Dial("tcp", r.target)
	if err != nil {
		return // the client sees its connection closed
	}
	defer r.drop(server)
	if !r.keep(server) {
		return
	}
	r.done.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	})
	_, _ = io.Copy(client, server)
}

// keep remembers a connection, to be closed with the relay; false: it is closed.
func (r *relay) keep(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.open[c] = struct{}{}
	}
	return !r.closed
}

func (r *relay) drop(c net.Conn) {
	_ = c.Close()
	r.mu.Lock()
	delete(r.open, c)
	r.mu.Unlock()
}

func (r *relay) close() error {
	r.mu.Lock()
	r.closed = true
	err := r.listener.Close()
	for c := range r.open {
		_ = c.Close() // one that the other side has closed already
	}
	r.mu.Unlock()
	r.done.Wait()
	return err
}
