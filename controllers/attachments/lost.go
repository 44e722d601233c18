package attachments

import (
	"context"
	"slices"
	"time"

	"github.com/podfence/podfence/cni/handshake"
)

// lostAgain is how often attachments are looked for whose link is gone.
const lostAgain = time.Minute

// endLostUntil ends attachments whose DEL was lost, now and then, until ctx is done.
func (s *Server) endLostUntil(ctx context.Context) {
	if s.Links == nil {
		return
	}
	for {
		if err := s.endLost(); err != nil && ctx.Err() == nil {
			s.Log.Error(err, "Cannot end the attachments of containers that are gone; trying again", "retryAfter", lostAgain.String())
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lostAgain):
		}
	}
}

// endLost ends the attachments whose link the node does not have any more, as their DELs
// would. The link of an attachment is there before the plugin tells of it, so one that
// was told of before the listing, and is not in it, has gone. An attachment of which
// nobody told the link stays: its address is closed to all but its pod, and ends with
// GC, or when another container gets it.
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
