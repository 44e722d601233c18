package controllers

import (
	"context"

	"github.com/podfence/podfence/cni/handshake"
)

// noteCommit leaves word of the first commit, by which the CNI plugin answers for the
// node's network while no agent does. Without it the plugin asks each time.
func (a *Attachments) noteCommit(ctx context.Context) {
	if a.enforcer.syncFirst(ctx) != nil {
		return
	}
	if err := handshake.NoteCommit(a.socket); err != nil {
		a.log.Error(err, "Cannot note beside the CNI socket that rules are committed: while the agent is away, container runtimes that ask the plugin take the node for not ready", "socket", a.socket)
	}
}
