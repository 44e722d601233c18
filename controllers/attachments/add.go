package attachments

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/policy"
)

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
		// Whatever has begun flows of the address before its rules were the pod's, and
		// whether or not this agent has ever heard of that: established ones would pass
		// until they are judged.
		err = s.endFlows(attachment.IPs)
	}
	if err == nil {
		err = announced(ctx)
	}
	if err == nil { // that may have taken a while
		s.mu.Lock()
		err = s.isCurrent(at, add)
		s.mu.Unlock()
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
