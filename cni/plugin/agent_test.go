package plugin_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/podfence/podfence/cni/handshake"
)

// agent stands in for the node's agent.
type agent struct {
	t      testing.TB
	socket string
	stop   func()

	mu   sync.Mutex
	pods map[handshake.Attachment]handshake.Request
	// answer is what an add is answered with, nil if it is nil.
	answer func(context.Context, handshake.Request) error
	// hangs says that it answers anything only when it is asked to stop.
	hangs bool
}

// startAgent makes an agent that runs until the test ends, or stop.
func startAgent(t testing.TB, socket string) *agent {
	a := &agent{t: t, socket: socket, pods: map[handshake.Attachment]handshake.Request{}}
	a.start()
	t.Cleanup(func() { a.stop() })
	return a
}

func (a *agent) start() {
	a.t.Helper()
	l, err := handshake.Listen(a.socket)
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := handshake.Serve(ctx, l, a.handle); err != nil {
			a.t.Errorf("agent: %v", err)
		}
	}()
	a.stop = func() {
		cancel()
		<-done
	}
}

func (a *agent) handle(ctx context.Context, r handshake.Request) error {
	a.mu.Lock()
	answer, hangs := a.answer, a.hangs
	a.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	if r.Op == handshake.OpAdd && answer != nil {
		if err := answer(ctx, r); err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	at := handshake.Attachment{ContainerID: r.ContainerID, IfName: r.IfName}
	switch r.Op {
	case handshake.OpAdd:
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.TimeoutMillis = 0 // never the same twice
		a.pods[at] = r
	case handshake.OpDel:
		delete(a.pods, at)
	case handshake.OpGC:
		for at := range a.pods {
			alive := func(valid handshake.Attachment) bool { return valid.ContainerID == at.ContainerID }
			if !slices.ContainsFunc(r.Attachments, alive) {
				delete(a.pods, at)
			}
		}
	case handshake.OpStatus:
	default:
		return errors.New("what?")
	}
	return nil
}

func (a *agent) setAnswer(f func(context.Context, handshake.Request) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = f
}

// known are the attachments that the agent has been told of.
func (a *agent) known() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []string
	for at := range a.pods {
		all = append(all, at.ContainerID+"/"+at.IfName)
	}
	slices.Sort(all)
	return all
}

// said is what the agent was told of a pod.
func (a *agent) said(p *pod) handshake.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pods[handshake.Attachment{ContainerID: p.rt.ContainerID, IfName: p.rt.IfName}]
}
