package controllers

import (
	"context"
	"slices"
	"time"

	"github.com/podfence/podfence/cni/handshake"
)

// lostAgain is how often attachments are looked for whose link is gone.
const lostAgain = time.Minute

// endLostUntil ends attachments whose DEL was lost, now and then, until ctx is done.
func (a *Attachments) endLostUntil(ctx context.Context) {
	if a.links == nil {
		return
	}
	for {
		if err := a.endLost(); err != nil && ctx.Err() == nil {
			a.log.Error(err, "Cannot end the attachments of containers that are gone; trying again", "retryAfter", lostAgain.String())
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
func (a *Attachments) endLost() error {
	told := map[handshake.Attachment]uint64{}
	var names []string
	a.mu.Lock()
	for at, attachment := range a.known {
		if attachment.HostInterface != "" {
			told[at] = a.by[at]
			names = append(names, attachment.HostInterface)
		}
	}
	a.mu.Unlock()
	if len(told) == 0 {
		return nil
	}
	links, err := a.links(names)
	if err != nil {
		return err
	}
	var pods []string
	err = a.remove(func(at handshake.Attachment) bool {
		add, candidate := told[at]
		attachment := a.known[at]
		lost := candidate && a.by[at] == add && !links[attachment.HostInterface]
		if pod := attachment.Pod.String(); lost && !slices.Contains(pods, pod) {
			pods = append(pods, pod)
		}
		return lost
	})
	if len(pods) > 0 {
		slices.Sort(pods)
		a.log.Info("Ended attachments of containers whose link is gone: nobody had said so", "pods", pods)
	}
	return err
}

// endWithBoot forgets what was kept before the node was started last, where the folder
// outlives that. It must be called before anything is loaded.
func (s store) endWithBoot() error {
	path := string(s) + ".boot" // not in it: all files there are attachments
	boot, err := handshake.BootOf(path)
	if err != nil || boot == handshake.ThisBoot {
		return err
	}
	if boot == handshake.EarlierBoot {
		known, err := s.load()
		if err != nil {
			return err
		}
		for at := range known {
			if err := s.remove(at); err != nil {
				return err
			}
		}
	}
	return handshake.NoteBoot(path)
}
