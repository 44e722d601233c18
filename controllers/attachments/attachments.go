package attachments

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
)

// Options are what a Server is told.
type Options struct {
	// Node is the name of this node.
	Node string
	// Socket is where the plugin asks, and State the folder that keeps what it said.
	Socket, State string
	// Bridge is the bridge that the plugin connects pods by. Nil: another plugin connects them.
	Bridge *enforcer.Bridge
	// Refuse is why no pod can be attached as long as this agent runs; nil: pods can.
	Refuse error
	// Links says which of the named links the node has, by which attachments of lost
	// containers are found; nil: they stay until GC.
	Links func(names []string) (has map[string]bool, err error)
	// Covered waits until the policies have been fed that the API server has for a namespace
	// at the time of the call. Nil: there is no API server to ask.
	Covered func(ctx context.Context, namespace string) error
	// Announcer tells other nodes of addresses that are given out. Nil: they are not told.
	Announcer Announcer
	// Flows ends the flows of addresses that are given out anew. Nil: they are left alone.
	Flows Flows

	Enforcer *enforcer.Enforcer
	Report   *report.Reporter
	Log      logr.Logger
}

// Flows is connection tracking.
type Flows interface {
	// Forget ends all flows of the addresses. It may be called at any time.
	Forget(addrs []netip.Addr) error
}

// Announcer tells other nodes whose an address is.
type Announcer interface {
	// Announce has an attachment's addresses announced; it must have its pod's UID. The function
	// that it returns waits until they are, and fails if the ADD has to.
	Announce(policy.Attachment) (wait func(context.Context) error)
	// Withdraw says that an attachment is gone, whether or not it was announced.
	Withdraw(policy.AttachmentKey)
}

// Server takes what the CNI plugin says into the model, and answers when the rules are in the
// kernel. It keeps what the plugin has said in a folder, so that a pod whose address the API does
// not show yet stays connected and fenced when the agent starts anew.
type Server struct {
	Options
	store store

	// mu keeps what the plugin says of attachments in order: it guards the fields below.
	mu    sync.Mutex
	known map[handshake.Attachment]policy.Attachment
	// adds counts the adds. by has, for each attachment, the number of the add that made it known.
	adds uint64
	by   map[handshake.Attachment]uint64
	// covered are the pods for which the model is known to have the policies that existed when
	// the pods were made.
	covered map[policy.Key]types.UID
	// pending are the pods whose adds have failed.
	pending map[pendingPod]*pending
}

type pendingPod struct {
	policy.Key
	uid types.UID
}

// pending says since when a pod's adds have failed.
type pending struct {
	since, last time.Time
	event       *corev1.Event // which says so; nil: there is none yet
}

const (
	// pendingLong is after how long of failing a pod's Event is created. Until then, kubelet's own
	// retries may well succeed.
	pendingLong = 30 * time.Second
	// pendingForgotten is after how long without an add nobody is thought to wait any more.
	pendingForgotten = 10 * time.Minute
)

// New reads what was kept, and feeds it. It must be called before the enforcer has synced.
func New(o Options) (*Server, error) {
	s := &Server{
		Options: o, store: store(o.State), pending: map[pendingPod]*pending{},
		by: map[handshake.Attachment]uint64{}, covered: map[policy.Key]types.UID{},
	}
	err := os.MkdirAll(o.State, 0o700)
	if err == nil {
		err = s.store.endWithBoot()
	}
	if err == nil {
		s.known, err = s.store.load()
	}
	if err != nil {
		return nil, fmt.Errorf("reading what the CNI plugin has said before: %w", err)
	}
	var changes []policy.Change
	for _, attachment := range s.known {
		changes = append(changes, policy.SetAttachment(attachment))
	}
	o.Enforcer.Feed(changes...)
	return s, nil
}

// Start serves the socket until ctx is done. It implements manager.Runnable.
func (s *Server) Start(ctx context.Context) error {
	listener, err := handshake.Listen(s.Socket)
	if err != nil {
		return err
	}
	go s.noteCommit(ctx)
	go s.endLostUntil(ctx)
	return handshake.Serve(ctx, listener, s.Handle)
}

// Handle answers one request of the plugin.
func (s *Server) Handle(ctx context.Context, r handshake.Request) error {
	switch r.Op {
	case handshake.OpAdd:
		began := time.Now()
		err := s.fits(r.Mode)
		if err == nil {
			err = s.add(ctx, r)
		}
		s.Report.Metrics.Added(err, time.Since(began))
		return err
	case handshake.OpDel:
		return s.detach(func(at handshake.Attachment) bool {
			return at == handshake.Attachment{ContainerID: r.ContainerID, IfName: r.IfName}
		})
	case handshake.OpGC:
		valid, alive := map[handshake.Attachment]bool{}, map[string]bool{}
		for _, at := range r.Attachments {
			valid[at], alive[at.ContainerID] = true, true
		}
		// Other interfaces of a container that lives stay until their DEL, or until their
		// links are gone: not every runtime lists them.
		return s.detach(func(at handshake.Attachment) bool { return !valid[at] && !alive[at.ContainerID] })
	case handshake.OpStatus:
		return s.Enforcer.Ready()
	}
	return fmt.Errorf("unknown operation %q", r.Op)
}

// add takes an attachment in and waits until its pod's rules are in the kernel.
// If they do not get there, nothing is left of it.
func (s *Server) add(ctx context.Context, r handshake.Request) error {
	began := time.Now()
	attachment := policy.Attachment{
		ContainerID: r.ContainerID, IfName: r.IfName, HostInterface: r.HostInterface, IPs: r.IPs,
		Pod: policy.Key{Namespace: r.Pod.Namespace, Name: r.Pod.Name}, UID: types.UID(r.Pod.UID),
	}
	if mac, err := net.ParseMAC(r.MAC); err == nil {
		copy(attachment.MAC[:], mac)
	}
	at := handshake.Attachment{ContainerID: r.ContainerID, IfName: r.IfName}
	if s.Bridge != nil && s.Bridge.GuardPort != nil {
		if err := s.Bridge.GuardPort(r.HostInterface); err != nil {
			return fmt.Errorf("pod %s: its port is not guarded: %w", attachment.Pod, err)
		}
	}
	if err := s.vacant(ctx, attachment); err != nil {
		return err
	}
	add, announced, err := s.keep(at, attachment)
	if err != nil {
		return err
	}
	uid, err := s.committed(ctx, attachment)
	if err == nil {
		announced, err = s.confirm(at, add, uid, announced)
	}
	if err == nil {
		err = announced(ctx)
	}
	if err == nil { // that may have taken a while
		s.mu.Lock()
		err = s.isCurrent(at, add)
		s.mu.Unlock()
	}
	if err == nil {
		// Whatever has begun flows of the address before its rules were the pod's, and
		// whether or not this agent has ever heard of that: established ones would pass
		// until they are judged.
		err = s.endFlows(attachment.IPs)
	}
	if err == nil && ctx.Err() != nil {
		// Nobody waits for the answer any more: the plugin has undone its part,
		// and its del may have come before this.
		err = fmt.Errorf("pod %s: the plugin has not waited", attachment.Pod)
	}
	s.report(attachment, err)
	if err == nil {
		s.Log.Info("Attached a pod", "pod", attachment.Pod.String(), "ips", attachment.IPs, "took", time.Since(began).String())
	}
	if err != nil {
		return errors.Join(err, s.remove(func(other handshake.Attachment) bool { return other == at && s.by[at] == add }))
	}
	attachment.UID = uid
	s.reportUnserved(attachment, r.Unserved)
	return nil
}

// report creates an Event on a pod that could not be connected for long.
func (s *Server) report(attachment policy.Attachment, failed error) {
	key := pendingPod{attachment.Pod, attachment.UID}
	now := time.Now()
	s.mu.Lock()
	for pod, p := range s.pending {
		if pod == key && failed == nil || now.Sub(p.last) > pendingForgotten {
			if p.event != nil {
				s.Report.Events.Drop(p.event)
			}
			delete(s.pending, pod)
		}
	}
	if failed == nil {
		s.mu.Unlock()
		return
	}
	p := s.pending[key]
	if p == nil {
		p = &pending{since: now}
		s.pending[key] = p
	}
	p.last = now
	overdue := p.event == nil && now.Sub(p.since) >= pendingLong
	if overdue {
		pod := corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: key.Namespace, Name: key.Name, UID: key.uid}
		p.event = s.Report.Events.Warning(pod, report.ReasonNotFenced, string(key.uid)+" "+p.since.String(), failed.Error())
		s.Report.Events.Create(p.event)
	}
	s.mu.Unlock()
	if overdue {
		s.Log.Error(failed, "A pod is not connected, as its rules are not in the kernel", "pod", key.String(), "since", p.since)
	}
}

// keep stores an attachment and then feeds it. It does so in this order because what the plugin has
// said must not be forgotten, and what is stored but not fed was never confirmed. It returns the
// number of this add, and what waits until other nodes are told of it.
func (s *Server) keep(at handshake.Attachment, attachment policy.Attachment) (add uint64, announced waiting, err error) {
	// Whoever had one of the addresses before is gone, though nobody said so:
	// the plugin gives none out twice.
	had := func(other handshake.Attachment, was policy.Attachment) bool {
		return other != at && slices.ContainsFunc(was.IPs, func(ip netip.Addr) bool { return slices.Contains(attachment.IPs, ip) })
	}
	if err := s.endFlowsOf(had); err != nil {
		return 0, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.forget(func(other handshake.Attachment) bool { return had(other, s.known[other]) })
	if err != nil {
		return 0, nil, err
	}
	s.adds++
	s.by[at] = s.adds
	announced, err = s.set(at, attachment)
	return s.adds, announced, err
}

// waiting waits until something has happened, and fails if the ADD has to.
type waiting func(context.Context) error

// set stores an attachment and feeds it. If its pod's UID is known, it has other nodes told, which goes
// on beside what comes next: announced waits for it. The caller holds mu, so that a DEL, which takes
// it back, comes before or after all of this.
func (s *Server) set(at handshake.Attachment, attachment policy.Attachment) (announced waiting, err error) {
	if err := s.store.save(at, attachment); err != nil {
		return nil, fmt.Errorf("keeping attachment %s %s: %w", at.ContainerID, at.IfName, err)
	}
	s.known[at] = attachment
	s.Enforcer.Feed(policy.SetAttachment(attachment))
	if s.Announcer == nil || attachment.UID == "" {
		return func(context.Context) error { return nil }, nil
	}
	return s.Announcer.Announce(attachment), nil
}

// confirm has an attachment belong to this very pod, and not to the next pod of its name. It fails
// if the attachment is no longer the one of this add: what the plugin has said since is newer, and
// the address may be another pod's. announced is what waits until other nodes are told; it is
// returned, or another one if only now it is known of which pod they are told.
func (s *Server) confirm(at handshake.Attachment, add uint64, uid types.UID, announced waiting) (waiting, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.isCurrent(at, add); err != nil {
		return nil, err
	}
	attachment := s.known[at]
	if attachment.UID == uid {
		return announced, nil
	}
	attachment.UID = uid
	return s.set(at, attachment)
}

// isCurrent fails if an attachment is no longer the one of an add. The caller holds mu.
func (s *Server) isCurrent(at handshake.Attachment, add uint64) error {
	if s.by[at] != add {
		return fmt.Errorf("attachment %s %s is gone, or another add's", at.ContainerID, at.IfName)
	}
	return nil
}

// committed waits until the pod and its policies are known, and then until what was fed up to that
// moment is in the kernel. It returns the pod's UID.
func (s *Server) committed(ctx context.Context, attachment policy.Attachment) (types.UID, error) {
	uid, err := s.Enforcer.AwaitPod(ctx, attachment)
	switch {
	case errors.Is(err, enforcer.ErrDetached):
		return "", fmt.Errorf("pod %s: %w", attachment.Pod, err)
	case err != nil && !s.Enforcer.HasSynced():
		return "", fmt.Errorf("pod %s is not known yet: the agent has just started, and has not read all of the cluster", attachment.Pod)
	case err != nil:
		return "", fmt.Errorf("pod %s (UID %s) is not known yet, so neither are its policies", attachment.Pod, attachment.UID)
	}
	if err := s.cover(ctx, attachment.Pod, uid); err != nil {
		return "", fmt.Errorf("the policies of pod %s are not known: %w", attachment.Pod, err)
	}
	if err := s.Enforcer.SyncOf(ctx, attachment.Pod.Namespace, attachment.IPs); err != nil {
		return "", fmt.Errorf("the rules of pod %s are not in the kernel: %w", attachment.Pod, err)
	}
	return uid, nil
}

// cover waits until the model has the policies that the API server has for a pod's namespace. It
// need not wait for a pod that was covered before, because the model never goes back in time, and
// nobody waits for policies that came after the pod.
func (s *Server) cover(ctx context.Context, pod policy.Key, uid types.UID) error {
	if s.Covered == nil || s.wasCovered(pod, uid) {
		return nil
	}
	if err := s.Covered(ctx, pod.Namespace); err != nil {
		return err
	}
	s.noteCovered(pod, uid)
	return nil
}

func (s *Server) wasCovered(pod policy.Key, uid types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.covered[pod] == uid
}

// noteCovered notes that the model covers a pod, and forgets pods that are gone.
func (s *Server) noteCovered(pod policy.Key, uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.covered[pod] = uid
	maps.DeleteFunc(s.covered, func(pod policy.Key, uid types.UID) bool {
		return !s.Enforcer.Attached(policy.Attachment{Pod: pod, UID: uid})
	})
}

// endFlows ends the flows of addresses, so that the next pod with one of them does not inherit
// flows: established ones pass without being judged.
func (s *Server) endFlows(addrs []netip.Addr) error {
	if s.Flows == nil || len(addrs) == 0 {
		return nil
	}
	if err := s.Flows.Forget(addrs); err != nil {
		return fmt.Errorf("flows of the last pod with one of %v may go on: %w", addrs, err)
	}
	return nil
}

// endFlowsOf ends the flows of attachments that are gone. As this takes a while, it does so without
// holding mu, so that nobody has to wait for it.
func (s *Server) endFlowsOf(gone func(handshake.Attachment, policy.Attachment) bool) error {
	var addrs []netip.Addr
	s.mu.Lock()
	for at, attachment := range s.known {
		if gone(at, attachment) {
			addrs = append(addrs, attachment.IPs...)
		}
	}
	s.mu.Unlock()
	return s.endFlows(addrs)
}

// detach removes attachments that the plugin says are gone.
func (s *Server) detach(gone func(handshake.Attachment) bool) error {
	var were []policy.Attachment
	s.mu.Lock()
	for at, attachment := range s.known {
		if gone(at) {
			were = append(were, attachment)
		}
	}
	s.mu.Unlock()
	if err := s.remove(gone); err != nil {
		return err
	}
	for _, attachment := range were {
		s.Log.Info("Removed a pod", "pod", attachment.Pod.String(), "ips", attachment.IPs)
	}
	return nil
}

// remove ends the flows of attachments and then forgets the attachments. If the agent crashes in
// between, they are still known, and their flows are ended later, at the latest when another pod
// gets the address.
func (s *Server) remove(gone func(handshake.Attachment) bool) error {
	if err := s.endFlowsOf(func(at handshake.Attachment, _ policy.Attachment) bool { return gone(at) }); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forget(gone)
}

func (s *Server) forget(gone func(handshake.Attachment) bool) error {
	var errs []error
	for at := range s.known {
		if !gone(at) {
			continue
		}
		if err := s.store.remove(at); err != nil {
			errs = append(errs, fmt.Errorf("forgetting attachment %s %s: %w", at.ContainerID, at.IfName, err))
		}
		delete(s.known, at)
		delete(s.by, at)
		s.Enforcer.Feed(policy.DeleteAttachment(at.ContainerID, at.IfName))
		if s.Announcer != nil {
			s.Announcer.Withdraw(policy.AttachmentKey{ContainerID: at.ContainerID, IfName: at.IfName})
		}
	}
	return errors.Join(errs...)
}
