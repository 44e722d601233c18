package attachments

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/policy"
)

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
