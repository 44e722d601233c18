package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
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
	bridge   *Bridge                                 // nil: another plugin connects the pods
	refuse   error                                   // why no pod can be attached
	links    func([]string) (map[string]bool, error) // nil: nobody looks for lost ones
	enforcer *Enforcer
	events   *events      // nil: there is no API server to tell
	policies *policyLists // nil: there is no API server to ask
	node     string
	log      logr.Logger

	// mu keeps what is said of attachments in order.
	mu    sync.Mutex
	known map[handshake.Attachment]policy.Attachment
	// adds counts the adds; by has which of them told of an attachment.
	adds uint64
	by   map[handshake.Attachment]uint64
	// coveredPods are those for which the model is known to have the policies that there
	// were when they were made.
	coveredPods map[policy.Key]types.UID
	// pending are the pods whose adds have failed.
	pending map[pendingPod]*pending
}

type pendingPod struct {
	policy.Key
	uid types.UID
}

// pending is since when a pod's adds have failed.
type pending struct {
	since, last time.Time
	said        *corev1.Event // nil: not yet
}

// ReasonNotFenced is the reason of the Warning Event on a pod that cannot be
// connected because its rules do not get into the kernel.
const ReasonNotFenced = "NotFenced"

const (
	// pendingLong is after how long of failing a pod's Event is created: until
	// then kubelet's own retries may well do.
	pendingLong = 30 * time.Second
	// pendingForgotten is after how long without an add nobody waits any more.
	pendingForgotten = 10 * time.Minute
)

// newAttachments reads what was kept, and feeds it. It must be called before
// the enforcer begins.
func newAttachments(o Options, e *Enforcer, events *events, policies *policyLists) (*Attachments, error) {
	a := &Attachments{
		socket: o.CNI.Socket, store: store(o.CNI.State), bridge: o.CNI.Bridge, refuse: o.CNI.Refuse, links: o.CNI.Links, enforcer: e,
		events: events, policies: policies, node: o.Node, log: o.Log.WithName("cni"), pending: map[pendingPod]*pending{},
		by: map[handshake.Attachment]uint64{}, coveredPods: map[policy.Key]types.UID{},
	}
	err := os.MkdirAll(o.CNI.State, 0o700)
	if err == nil {
		err = a.store.endWithBoot()
	}
	if err == nil {
		a.known, err = a.store.load()
	}
	if err != nil {
		return nil, fmt.Errorf("reading what the CNI plugin has said before: %w", err)
	}
	var changes []policy.Change
	for _, attachment := range a.known {
		changes = append(changes, policy.SetAttachment(attachment))
	}
	e.Feed(changes...)
	return a, nil
}

// Start serves the socket until ctx is done. It implements manager.Runnable.
func (a *Attachments) Start(ctx context.Context) error {
	listener, err := handshake.Listen(a.socket)
	if err != nil {
		return err
	}
	go a.noteCommit(ctx)
	go a.endLostUntil(ctx)
	return handshake.Serve(ctx, listener, a.handle)
}

func (a *Attachments) handle(ctx context.Context, r handshake.Request) error {
	switch r.Op {
	case handshake.OpAdd:
		began := time.Now()
		err := a.fits(r.Mode)
		if err == nil {
			err = a.add(ctx, r)
		}
		a.enforcer.metrics.added(err, time.Since(began))
		return err
	case handshake.OpDel:
		return a.detach(func(at handshake.Attachment) bool {
			return at == handshake.Attachment{ContainerID: r.ContainerID, IfName: r.IfName}
		})
	case handshake.OpGC:
		valid, alive := map[handshake.Attachment]bool{}, map[string]bool{}
		for _, at := range r.Attachments {
			valid[at], alive[at.ContainerID] = true, true
		}
		// Other interfaces of a container that lives stay until their DEL, or until their
		// links are gone: not every runtime lists them.
		return a.detach(func(at handshake.Attachment) bool { return !valid[at] && !alive[at.ContainerID] })
	case handshake.OpStatus:
		return a.enforcer.Ready()
	}
	return fmt.Errorf("unknown operation %q", r.Op)
}

// add takes an attachment in and waits until its pod's rules are in the kernel.
// If they do not get there, nothing is left of it.
func (a *Attachments) add(ctx context.Context, r handshake.Request) error {
	began := time.Now()
	attachment := policy.Attachment{
		ContainerID: r.ContainerID, IfName: r.IfName, HostInterface: r.HostInterface, IPs: r.IPs,
		Pod: policy.Key{Namespace: r.Pod.Namespace, Name: r.Pod.Name}, UID: types.UID(r.Pod.UID),
	}
	if mac, err := net.ParseMAC(r.MAC); err == nil {
		copy(attachment.MAC[:], mac)
	}
	at := handshake.Attachment{ContainerID: r.ContainerID, IfName: r.IfName}
	if a.bridge != nil && a.bridge.GuardPort != nil {
		if err := a.bridge.GuardPort(r.HostInterface); err != nil {
			return fmt.Errorf("pod %s: its port is not guarded: %w", attachment.Pod, err)
		}
	}
	if err := a.vacant(ctx, attachment); err != nil {
		return err
	}
	add, err := a.keep(at, attachment)
	if err != nil {
		return err
	}
	uid, err := a.committed(ctx, attachment)
	if err == nil {
		err = a.confirm(at, add, uid)
	}
	if err == nil {
		// Whatever has begun flows of the address before its rules were the pod's, and
		// whether or not this agent has ever heard of that: established ones would pass
		// until they are judged.
		err = a.endFlows(attachment.IPs)
	}
	if err == nil && ctx.Err() != nil {
		// Nobody waits for the answer any more: the plugin has undone its part,
		// and its del may have come before this.
		err = fmt.Errorf("pod %s: the plugin has not waited", attachment.Pod)
	}
	a.report(attachment, err)
	if err == nil {
		a.log.Info("Attached a pod", "pod", attachment.Pod.String(), "ips", attachment.IPs, "took", time.Since(began).String())
	}
	if err != nil {
		return errors.Join(err, a.remove(func(other handshake.Attachment) bool { return other == at && a.by[at] == add }))
	}
	attachment.UID = uid
	a.reportUnserved(attachment, r.Unserved)
	return nil
}

// report says on the pod when it has not been connected for long.
func (a *Attachments) report(attachment policy.Attachment, failed error) {
	key := pendingPod{attachment.Pod, attachment.UID}
	now := time.Now()
	a.mu.Lock()
	for pod, p := range a.pending {
		if pod == key && failed == nil || now.Sub(p.last) > pendingForgotten {
			if p.said != nil {
				a.events.drop(p.said)
			}
			delete(a.pending, pod)
		}
	}
	if failed == nil {
		a.mu.Unlock()
		return
	}
	p := a.pending[key]
	if p == nil {
		p = &pending{since: now}
		a.pending[key] = p
	}
	p.last = now
	say := p.said == nil && now.Sub(p.since) >= pendingLong
	if say {
		pod := corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: key.Namespace, Name: key.Name, UID: key.uid}
		p.said = warning(pod, a.node, ReasonNotFenced, string(key.uid)+" "+p.since.String(), failed.Error())
		a.events.create(p.said)
	}
	a.mu.Unlock()
	if say {
		a.log.Error(failed, "A pod is not connected, as its rules are not in the kernel", "pod", key.String(), "since", p.since)
	}
}

// keep stores an attachment and feeds it. It is stored first: what was told
// must not be forgotten, and what is stored but not fed was never confirmed. It returns
// the number of this add.
func (a *Attachments) keep(at handshake.Attachment, attachment policy.Attachment) (add uint64, err error) {
	// Whoever had one of the addresses before is gone, though nobody said so:
	// the plugin gives none out twice.
	had := func(other handshake.Attachment, was policy.Attachment) bool {
		return other != at && slices.ContainsFunc(was.IPs, func(ip netip.Addr) bool { return slices.Contains(attachment.IPs, ip) })
	}
	if err := a.endFlowsOf(had); err != nil {
		return 0, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	err = a.forget(func(other handshake.Attachment) bool { return had(other, a.known[other]) })
	if err != nil {
		return 0, err
	}
	a.adds++
	a.by[at] = a.adds
	return a.adds, a.set(at, attachment)
}

func (a *Attachments) set(at handshake.Attachment, attachment policy.Attachment) error {
	if err := a.store.save(at, attachment); err != nil {
		return fmt.Errorf("keeping attachment %s %s: %w", at.ContainerID, at.IfName, err)
	}
	a.known[at] = attachment
	a.enforcer.Feed(policy.SetAttachment(attachment))
	return nil
}

// confirm has an attachment be this very pod's, and not the next one's of its name. It
// fails if the attachment is that of this add no more: what was told since is newer, and
// its address may be another's.
func (a *Attachments) confirm(at handshake.Attachment, add uint64, uid types.UID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	attachment := a.known[at]
	switch {
	case a.by[at] != add:
		return fmt.Errorf("attachment %s %s is gone, or another add's", at.ContainerID, at.IfName)
	case attachment.UID == uid:
		return nil
	}
	attachment.UID = uid
	return a.set(at, attachment)
}

// committed waits until the pod is known with the policies that it has, and what was fed
// up to then is in the kernel. It returns the pod's UID.
func (a *Attachments) committed(ctx context.Context, attachment policy.Attachment) (uid types.UID, err error) {
	err = a.enforcer.await(ctx, func(m *policy.Model) (known bool) {
		uid, known = m.Attached(attachment)
		return known
	})
	switch {
	case err != nil && !a.enforcer.hasLoaded():
		return "", fmt.Errorf("pod %s is not known yet: the agent has just started, and has not read all of the cluster", attachment.Pod)
	case err != nil:
		return "", fmt.Errorf("pod %s (UID %s) is not known yet, so neither are its policies", attachment.Pod, attachment.UID)
	}
	if err := a.covered(ctx, attachment.Pod, uid); err != nil {
		return "", fmt.Errorf("the policies of pod %s are not known: %w", attachment.Pod, err)
	}
	if err := a.enforcer.syncOf(ctx, attachment.Pod.Namespace, attachment.IPs); err != nil {
		return "", fmt.Errorf("the rules of pod %s are not in the kernel: %w", attachment.Pod, err)
	}
	return uid, nil
}

// endFlows ends the flows of addresses, so that their next pod does not inherit them:
// established ones pass unjudged.
func (a *Attachments) endFlows(addrs []netip.Addr) error {
	if a.enforcer.flows == nil || len(addrs) == 0 {
		return nil
	}
	if err := a.enforcer.flows.Forget(addrs); err != nil {
		return fmt.Errorf("flows of the last pod with one of %v may go on: %w", addrs, err)
	}
	return nil
}

// endFlowsOf ends the flows of attachments that are gone. It takes a while, so it holds
// nobody up.
func (a *Attachments) endFlowsOf(gone func(handshake.Attachment, policy.Attachment) bool) error {
	var addrs []netip.Addr
	a.mu.Lock()
	for at, attachment := range a.known {
		if gone(at, attachment) {
			addrs = append(addrs, attachment.IPs...)
		}
	}
	a.mu.Unlock()
	return a.endFlows(addrs)
}

// detach removes attachments that the plugin says are gone.
func (a *Attachments) detach(gone func(handshake.Attachment) bool) error {
	var were []policy.Attachment
	a.mu.Lock()
	for at, attachment := range a.known {
		if gone(at) {
			were = append(were, attachment)
		}
	}
	a.mu.Unlock()
	if err := a.remove(gone); err != nil {
		return err
	}
	for _, attachment := range were {
		a.log.Info("Removed a pod", "pod", attachment.Pod.String(), "ips", attachment.IPs)
	}
	return nil
}

// remove forgets attachments, their flows first: what is still known when the agent
// crashes here has its flows ended later, at the latest when somebody gets its address.
func (a *Attachments) remove(gone func(handshake.Attachment) bool) error {
	if err := a.endFlowsOf(func(at handshake.Attachment, _ policy.Attachment) bool { return gone(at) }); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.forget(gone)
}

func (a *Attachments) forget(gone func(handshake.Attachment) bool) error {
	var errs []error
	for at := range a.known {
		if !gone(at) {
			continue
		}
		if err := a.store.remove(at); err != nil {
			errs = append(errs, fmt.Errorf("forgetting attachment %s %s: %w", at.ContainerID, at.IfName, err))
		}
		delete(a.known, at)
		delete(a.by, at)
		a.enforcer.Feed(policy.DeleteAttachment(at.ContainerID, at.IfName))
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

// load reads all files. One that cannot be understood is removed, and no reason to
// forget the others: its pod is closed until its container is made anew.
func (s store) load() (map[handshake.Attachment]policy.Attachment, error) {
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
		attachment, ok := parseAttachment(data)
		at := handshake.Attachment{ContainerID: attachment.ContainerID, IfName: attachment.IfName}
		if !ok || s.path(at) != path { // under another name it would never be removed
			if err := os.Remove(path); err != nil {
				return nil, err
			}
			continue
		}
		known[at] = attachment
	}
	return known, nil
}

// parseAttachment reads what save has written; it fails for what save never
// writes.
func parseAttachment(data []byte) (a policy.Attachment, ok bool) {
	if json.Unmarshal(data, &a) != nil || a.ContainerID == "" || a.IfName == "" || a.Pod.Namespace == "" || a.Pod.Name == "" {
		return a, false
	}
	return a, len(a.IPs) > 0 && !slices.ContainsFunc(a.IPs, func(ip netip.Addr) bool {
		return !ip.IsValid() || ip != ip.Unmap() || ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast()
	})
}
