package attachments

import (
	"context"

	"github.com/podfence/podfence/cni/handshake"
)

// noteCommit leaves a note of the first commit. By this note the CNI plugin answers for the node's
// network while there is no agent to answer. Without the note, the plugin asks each time.
func (s *Server) noteCommit(ctx context.Context) {
	if s.Enforcer.SyncFirst(ctx) != nil {
		return
	}
	if err := handshake.NoteCommit(s.Socket); err != nil {
		s.Log.Error(err, "Cannot note beside the CNI socket that rules are committed: while the agent is away, container runtimes that ask the plugin take the node for not ready", "socket", s.Socket)
	}
}
