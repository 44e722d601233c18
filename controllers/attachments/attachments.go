package attachments

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/go-logr/logr"
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
	// Covered waits until all has been fed that says which policies a pod of a namespace has, as
	// the API server has it at the time of the call. Nil: there is no API server to ask.
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
