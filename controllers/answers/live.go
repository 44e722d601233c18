package answers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/policy"
)

// Supposer says how packets would be judged after some changes. It may be called from any goroutine.
type Supposer interface {
	HasSynced() bool
	Suppose(...policy.Change) *enforcer.Supposition
}

const (
	// livesAtOnce is how many are answered at once which connections would be cut: each takes memory.
	livesAtOnce = 4
	// lookEvery is how often connection tracking is looked at for connections that have begun. It keeps those
	// that have ended for longer: TCP connections for two minutes, or ten seconds if they were reset, and others for
	// half a minute. So those that begin and end in between are found, unless the node is set to forget sooner.
	lookEvery = 3 * time.Second
	// lookTimeout is how long a look may take.
	lookTimeout = 30 * time.Second
)

// serveLive answers which connections would be cut if some objects were others.
func (s *Server) serveLive(w http.ResponseWriter, r *http.Request) {
	if !allowed(w, r, http.MethodPost) {
		return
	}
	q, changes, err := readLive(w, r)
	var tooLarge *http.MaxBytesError
	switch o := s.options; {
	case errors.As(err, &tooLarge):
		fail(w, http.StatusRequestEntityTooLarge, "TooLarge", fmt.Sprintf("the question has more than %d bytes: ask about fewer policies at once", tooLarge.Limit))
		return
	case err != nil:
		fail(w, http.StatusBadRequest, "BadRequest", err.Error())
		return
	case o.Kernel == nil || o.Supposer == nil || o.Names == nil:
		fail(w, http.StatusServiceUnavailable, "Unavailable", "this agent has no kernel to ask")
		return
	case !o.Supposer.HasSynced():
		fail(w, http.StatusServiceUnavailable, "Unavailable", "this agent has just begun, and does not know all pods and policies yet")
		return
	}
	busy := func() {
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusTooManyRequests, "TooManyRequests", "many ask at once: ask again in a second")
	}
	select {
	case s.living <- struct{}{}:
	default:
		busy()
		return
	}
	defer func() { <-s.living }()
	out := newStream(w)
	out.within(traceWait + lookTimeout + sendTimeout)
	cuts := newCuts(s.options.Names)
	open, err := s.look(r.Context(), cuts, changes)
	switch {
	case errors.Is(err, errBusy):
		busy()
		return
	case err != nil:
		fail(w, http.StatusServiceUnavailable, "Unavailable", fmt.Sprintf("which connections would be cut cannot be told: %v", err))
		return
	}
	w.Header().Set("Content-Type", answers.LiveMediaType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	said := answers.LiveCuts{
		TypeMeta: answers.TypeMeta{APIVersion: answers.Version, Kind: "LiveCuts"}, Node: s.options.Node,
		Open: open, Counts: s.options.Kernel.Counts(), Spares: s.options.Choices.RevokedMark == 0,
	}
	_ = s.follow(r.Context(), out, cuts, said, changes, time.Duration(q.Seconds)*time.Second) // who has gone is not told
}

// follow sends what was found at the first look, and goes on looking for so long. An error says why no more can be
// sent.
func (s *Server) follow(ctx context.Context, out *stream, cuts *cuts, said answers.LiveCuts, changes []policy.Change, long time.Duration) error {
	until := time.Now().Add(long)
	cuts.begin()
	for told := -1; ; { // how many flows were told of
		said.Done = !time.Now().Before(until)
		if said.Done || said.Message != "" || cuts.count() > told {
			told = cuts.count()
			cuts.into(&said)
			out.encode(said)
		} else {
			out.empty()
		}
		if err := out.flush(); err != nil || said.Done || said.Message != "" {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(lookEvery, time.Until(until))):
		}
		for {
			_, err := s.look(ctx, cuts, changes)
			if err == nil {
				break
			}
			if !errors.Is(err, errBusy) || ctx.Err() != nil {
				said.Message = fmt.Sprintf("after %s connections could not be listed any more: %v", time.Since(until.Add(-long)).Round(time.Second), err)
				break
			}
		}
	}
}

// errBusy: others look, or trace packets.
var errBusy = errors.New("many ask at once")

// look goes through the connections once. It takes turns with traces.
func (s *Server) look(ctx context.Context, cuts *cuts, changes []policy.Change) (open int, err error) {
	if !s.begin(ctx) {
		return 0, errBusy
	}
	defer s.end(time.Now())
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	supposed := s.options.Supposer.Suppose(changes...)
	cuts.supposing(supposed, time.Now())
	return s.options.Kernel.WouldCut(ctx, s.options.Choices.RevokedMark, supposed.Passes, supposed.WouldPass, cuts.add)
}

// readLive reads a question, and what would change.
func readLive(w http.ResponseWriter, r *http.Request) (q answers.LiveQuestion, changes []policy.Change, err error) {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, answers.MaxLiveQuestion))
	decoder.DisallowUnknownFields() // a part that is not understood would be left out of the answer
	if err := decoder.Decode(&q); err != nil {
		return q, nil, fmt.Errorf("the question is not a LiveQuestion in JSON: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) { // only at the end is it noticed if who asks goes
		return q, nil, errors.New("there is more after the question: ask one at a time")
	}
	if q.Seconds < 0 || q.Seconds > answers.MaxLiveSeconds {
		return q, nil, fmt.Errorf("seconds is %d: it must be from 0 to %d", q.Seconds, answers.MaxLiveSeconds)
	}
	for i, text := range q.Changed {
		object, err := objectOf(text)
		if err != nil {
			return q, nil, fmt.Errorf("changed[%d]: %w", i, err)
		}
		changes = append(changes, policy.ChangeOf(object))
	}
	for i, o := range q.Removed {
		object := newObject(o.Kind)
		if _, isPod := object.(*corev1.Pod); object == nil || isPod {
			return q, nil, fmt.Errorf("removed[%d]: kind is %q: it must be NetworkPolicy, ClusterNetworkPolicy or Namespace", i, o.Kind)
		}
		object.SetNamespace(o.Namespace)
		object.SetName(o.Name)
		changes = append(changes, policy.Gone(object))
	}
	return q, changes, nil
}

// objectOf reads an object of the API.
func objectOf(text json.RawMessage) (metav1.Object, error) {
	var meta metav1.TypeMeta
	if err := json.Unmarshal(text, &meta); err != nil {
		return nil, fmt.Errorf("it is no object of the API: %w", err)
	}
	object := newObject(meta.Kind)
	if object == nil {
		return nil, fmt.Errorf("kind is %q: it must be NetworkPolicy, ClusterNetworkPolicy, Namespace or Pod", meta.Kind)
	}
	if err := json.Unmarshal(text, object); err != nil {
		return nil, fmt.Errorf("it is no %s: %w", meta.Kind, err)
	}
	if object.GetName() == "" {
		return nil, errors.New("it has no name")
	}
	return object, nil
}

func newObject(kind string) metav1.Object {
	switch kind {
	case "NetworkPolicy":
		return &networkingv1.NetworkPolicy{}
	case "ClusterNetworkPolicy":
		return &clusterv1beta1.ClusterNetworkPolicy{}
	case "Namespace":
		return &corev1.Namespace{}
	case "Pod":
		return &corev1.Pod{}
	}
	return nil
}
