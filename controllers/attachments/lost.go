package attachments

import (
	"context"
	"slices"
	"time"

	"github.com/podfence/podfence/cni/handshake"
)

// lostPeriod is how often to look for attachments whose link is gone.
const lostPeriod = time.Minute

// endLostUntil ends attachments whose DEL was lost, every lostPeriod, until ctx is done.
func (s *Server) endLostUntil(ctx context.Context) {
	if s.Links == nil {
		return
	}
	for {
		if err := s.endLost(); err != nil && ctx.Err() == nil {
			s.Log.Error(err, "Cannot end the attachments of containers that are gone; trying again", "retryAfter", lostPeriod.String())
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lostPeriod):
		}
	}
}

// endLost ends the attachments whose link the node does not have any more, as their DELs would
// have. The plugin makes a link before it tells the agent of the attachment. So a link that the
// agent was told of before links were listed, and that is not in the list, is gone. An attachment
// whose link the agent was not told stays: its address is closed to all but its pod. It ends with
// GC, or when another container gets the address.
func (s *Server) endLost() error {
	told := map[handshake.Attachment]uint64{}
	var names []string
	s.mu.Lock()
	for at, attachment := range s.known {
		if attachment.HostInterface != "" {
			told[at] = s.by[at]
			names = append(names, attachment.HostInterface)
		}
	}
	s.mu.Unlock()
	if len(told) == 0 {
		return nil
	}
	links, err := s.Links(names)
	if err != nil {
		return err
	}
	var pods []string
	err = s.remove(func(at handshake.Attachment) bool {
		add, candidate := told[at]
		attachment := s.known[at]
		lost := candidate && s.by[at] == add && !links[attachment.HostInterface]
		if pod := attachment.Pod.String(); lost && !slices.Contains(pods, pod) {
			pods = append(pods, pod)
		}
		return lost
	})
	if len(pods) > 0 {
		slices.Sort(pods)
		s.Log.Info("Ended attachments of containers whose link is gone: nobody had said so", "pods", pods)
	}
	return err
}
