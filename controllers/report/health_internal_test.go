package report

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// eventStore is an API server's, which takes each name once. away has it take none.
type eventStore struct {
	client.Writer
	mu    sync.Mutex
	away  bool
	tries int
	all   map[string]*corev1.Event
}

// Create implements client.Writer.
func (s *eventStore) Create(_ context.Context, object client.Object, _ ...client.CreateOption) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tries++
	switch {
	case s.away:
		return errors.New("away")
	case s.all[object.GetName()] != nil:
		return apierrors.NewAlreadyExists(schema.GroupResource{Resource: "events"}, object.GetName())
	}
	s.all[object.GetName()] = object.(*corev1.Event)
	return nil
}

// said is what the Events say.
func (s *eventStore) said() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, event := range s.all {
		all = append(all, event.InvolvedObject.Kind+" "+event.InvolvedObject.Name+" "+event.Reason+": "+event.Message)
	}
	return all
}

// Of a condition /readyz, the log, the gauge and an Event say the same, the latter two
// once; when it is over, all but the Event say that.
func TestHealthSaysTheSameEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		log := funcr.New(func(prefix, args string) { lines = append(lines, prefix+" "+args) }, funcr.Options{})
		events := &eventStore{all: map[string]*corev1.Event{}, away: true}
		registry := prometheus.NewRegistry()
		m := newMetrics(registry)
		broken := errors.New("module missing")
		var missing atomic.Bool
		h := newHealth(Options{Node: "node-1", Log: log, Checks: map[Condition]func() error{BridgeNetfilterOff: func() error {
			if missing.Load() {
				return broken
			}
			return nil
		}}}, m, newEvents(events, "node-1", logr.Discard(), m))
		ctx, cancel := context.WithCancel(t.Context())
		var parts sync.WaitGroup
		parts.Go(func() { _ = h.Start(ctx) })
		parts.Go(func() { _ = h.events.Start(ctx) })
		defer func() { cancel(); parts.Wait() }()

		if code, body := readyz(h); code != http.StatusOK {
			t.Errorf("without a condition: %d %s", code, body)
		}
		missing.Store(true)
		for range 3 {
			h.Set(NetworkFailed, errors.New("no route"))
			time.Sleep(healthPeriod)
			synctest.Wait()
		}
		events.mu.Lock()
		events.away = false
		events.mu.Unlock()
		time.Sleep(time.Minute) // it is tried again, less and less often
		synctest.Wait()
		if code, body := readyz(h); code != http.StatusInternalServerError || body != "NetworkFailed: no route\nBridgeNetfilterOff: module missing\n" {
			t.Errorf("with two conditions: %d %s", code, body)
		}
		if got := with(lines, `"condition"="NetworkFailed" "reason"="no route"`); got != 1 {
			t.Errorf("the log says it %d times: %q", got, lines)
		}
		if got := strings.Join(events.said(), "\n"); len(events.said()) != 2 || !strings.Contains(got, "Node node-1 NetworkFailed: no route") || !strings.Contains(got, "Node node-1 BridgeNetfilterOff: module missing") {
			t.Errorf("the Events say\n%s", got)
		}
		tries := events.tries
		if got := unhealthy(t, registry); len(got) != len(Conditions()) || got["NetworkFailed"] != 1 || got["BridgeNetfilterOff"] != 1 || got["CommitFailed"] != 0 {
			t.Errorf("the gauges are %v", got)
		}

		h.Set(NetworkFailed, errors.New("no link"))
		missing.Store(false)
		time.Sleep(2 * healthPeriod)
		synctest.Wait()
		if code, body := readyz(h); code != http.StatusInternalServerError || body != "NetworkFailed: no link\n" {
			t.Errorf("with another reason: %d %s", code, body)
		}
		if len(events.said()) != 3 || events.tries != tries+1 {
			t.Errorf("after %d tries for 1 the Events say %q", events.tries-tries, events.said())
		}
		h.Set(NetworkFailed, nil)
		if code, body := readyz(h); code != http.StatusOK {
			t.Errorf("when all is over: %d %s", code, body)
		}
		if got := with(lines, `"condition"="NetworkFailed" "ready"=true`); got != 1 {
			t.Errorf("the log says %d times that it is over: %q", got, lines)
		}
		if got := unhealthy(t, registry); got["NetworkFailed"] != 0 {
			t.Errorf("when it is over the gauges are %v", got)
		}
	})
}

func readyz(h *Health) (int, string) {
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, nil)
	return answer.Code, answer.Body.String()
}

// unhealthy are the values of podfence_unhealthy, by condition.
func unhealthy(t *testing.T, registry *prometheus.Registry) map[Condition]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[Condition]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() == "podfence_unhealthy" {
				values[Condition(metric.GetLabel()[0].GetValue())] = metric.GetGauge().GetValue()
			}
		}
	}
	return values
}

func with(lines []string, text string) (n int) {
	for _, line := range lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// Each condition has a gauge before it was ever there: an alert on one that is missing
// would never fire.
func TestHealthHasAGaugeForEachCondition(t *testing.T) {
	registry := prometheus.NewRegistry()
	h := newHealth(Options{Node: "node-1", Log: logr.Discard()}, newMetrics(registry), nil)
	if got := unhealthy(t, registry); len(got) != len(Conditions()) {
		t.Errorf("of %d conditions the gauges are %v", len(Conditions()), got)
	}
	for _, c := range Conditions() {
		h.Set(c, errors.New("broken"))
		if code, body := readyz(h); code != http.StatusInternalServerError || body != string(c)+": broken\n" {
			t.Errorf("%s: %d %s", c, code, body)
		}
		h.Set(c, nil)
	}
}

// The guide for operators has a row for each condition, and for nothing else.
func TestOperationsHasEachCondition(t *testing.T) {
	text, err := os.ReadFile("../../docs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "## The conditions\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var rows []Condition
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z]\\w+)` \\|").FindAllStringSubmatch(section, -1) {
		rows = append(rows, Condition(row[1]))
	}
	if !slices.Equal(rows, Conditions()) {
		t.Errorf("the rows are of %v, the conditions %v", rows, Conditions())
	}
}
