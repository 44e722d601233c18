package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/policy"
)

// Attachments takes what the CNI plugin says into the model, and answers when
// the rules are in the kernel. What it has been told is kept in a folder, so
// that a pod whose address the API does not show yet stays connected and fenced
// when the agent starts anew.
type Attachments struct {
	socket   string
	store    store
	enforcer *Enforcer
	log      logr.Logger

	// mu keeps what is said of attachments in order.
	mu    sync.Mutex
	known map[handshake.Attachment]policy.Attachment
}

// newAttachments reads what was kept, and feeds it. It must be called before
// the enforcer begins.
func newAttachments(socket, folder string, e *Enforcer, log logr.Logger) (*Attachments, error) {
	a := &Attachments{socket: socket, store: store(folder), enforcer: e, log: log}
	var err error
	if a.known, err = a.store.load(); err != nil {
		return nil, fmt.Errorf("reading what the CNI plugin has said before: %w", err)
	}
	e.Feed(func(m *policy.Model) {
		for _, attachment := range a.known {
			m.SetAttachment(attachment)
		}
	})
	return a, nil
}

// Start serves the socket until ctx is done. It implements manager.Runnable.
func (a *Attachments) Start(ctx context.Context) error {
	listener, err := handshake.Listen(a.socket)
	if err != nil {
		return err
	}
	return handshake.Serve(ctx, listener, a.handle)
}

func (a *Attachments) handle(ctx context.Context, r handshake.Request) error {
	switch r.Op {
	case handshake.OpAdd:
		return a.add(ctx, r)
	case handshake.OpDel:
		return a.remove(func(at handshake.Attachment) bool {
			return at == handshake.Attachment{ContainerID: r.ContainerID, IfName: r.IfName}
		})
	case handshake.OpGC:
		valid := map[handshake.Attachment]bool{}
		for _, at := range r.Attachments {
			valid[at] = true
		}
		return a.remove(func(at handshake.Attachment) bool { return !valid[at] })
	case handshake.OpStatus:
		return a.enforcer.Ready(nil)
	}
	return fmt.Errorf("unknown operation %q", r.Op)
}

// add takes an attachment in and waits until its pod's rules are in the kernel.
// If they do not get there, nothing is left of it.
func (a *Attachments) add(ctx context.Context, r handshake.Request) error {
	attachment := policy.Attachment{
		ContainerID: r.ContainerID, IfName: r.IfName, HostInterface: r.HostInterface, IPs: r.IPs,
		Pod: policy.Key{Namespace: r.Pod.Namespace, Name: r.Pod.Name}, UID: types.UID(r.Pod.UID),
	}
	if mac, err := net.ParseMAC(r.MAC); err == nil {
		copy(attachment.MAC[:], mac)
	}
	at := handshake.Attachment{ContainerID: r.ContainerID, IfName: r.IfName}
	if err := a.keep(at, attachment); err != nil {
		return err
	}
	if err := a.committed(ctx, attachment); err != nil {
		return errors.Join(err, a.remove(func(other handshake.Attachment) bool { return other == at }))
	}
	return nil
}

// keep stores an attachment and feeds it. It is stored first: what was told
// must not be forgotten, and what is stored but not fed was never confirmed.
func (a *Attachments) keep(at handshake.Attachment, attachment policy.Attachment) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.store.save(at, attachment); err != nil {
		return fmt.Errorf("keeping attachment %s %s: %w", at.ContainerID, at.IfName, err)
	}
	a.known[at] = attachment
	a.enforcer.Feed(func(m *policy.Model) { m.SetAttachment(attachment) })
	return nil
}

// lookAgain is how often an add looks whether the watch has brought its pod:
// kubelet may have it a moment earlier.
const lookAgain = 10 * time.Millisecond

// committed waits until the pod is known, and what was fed up to then is in the
// kernel.
func (a *Attachments) committed(ctx context.Context, attachment policy.Attachment) error {
	for known := false; !known; {
		a.enforcer.Feed(func(m *policy.Model) { known = m.Attached(attachment) })
		if known {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("pod %s (UID %s) is not known yet, so neither are its policies", attachment.Pod, attachment.UID)
		case <-time.After(lookAgain):
		}
	}
	if err := a.enforcer.Sync(ctx); err != nil {
		return fmt.Errorf("the rules of pod %s are not in the kernel: %w", attachment.Pod, err)
	}
	return nil
}

// remove forgets attachments.
func (a *Attachments) remove(gone func(handshake.Attachment) bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	for at := range a.known {
		if !gone(at) {
			continue
		}
		if err := a.store.remove(at); err != nil {
			errs = append(errs, fmt.Errorf("forgetting attachment %s %s: %w", at.ContainerID, at.IfName, err))
		}
		delete(a.known, at)
		a.enforcer.Feed(func(m *policy.Model) { m.DeleteAttachment(at.ContainerID, at.IfName) })
	}
	return errors.Join(errs...)
}

// store is a folder with a file for each attachment. It belongs in /run: what
// it tells of does not outlive the machine's uptime either.
type store string

func (s store) path(at handshake.Attachment) string {
	return filepath.Join(string(s), filepath.Base(at.ContainerID+"."+at.IfName)+".json")
}

// save writes the file whole or not at all.
func (s store) save(at handshake.Attachment, attachment policy.Attachment) error {
	data, err := json.Marshal(attachment)
	if err != nil {
		return err
	}
	temporary := s.path(at) + ".new"
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, s.path(at))
}

func (s store) remove(at handshake.Attachment) error {
	err := os.Remove(s.path(at))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// load reads all files. One that cannot be read is no reason to forget the
// others, but to say so: its pod is closed until its container is made anew.
func (s store) load() (map[handshake.Attachment]policy.Attachment, error) {
	if err := os.MkdirAll(string(s), 0o700); err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(string(s), "*.json"))
	if err != nil {
		return nil, err
	}
	known := map[handshake.Attachment]policy.Attachment{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var attachment policy.Attachment
		if json.Unmarshal(data, &attachment) != nil || attachment.ContainerID == "" {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
			continue
		}
		known[handshake.Attachment{ContainerID: attachment.ContainerID, IfName: attachment.IfName}] = attachment
	}
	return known, nil
}
