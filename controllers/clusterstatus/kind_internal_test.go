package clusterstatus

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// offers is an API server that says which resources it has in which version, or that it is away.
type offers struct {
	mu       sync.Mutex
	versions map[string][]string
	away     bool
}

func (o *offers) set(away bool, versions map[string][]string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.away, o.versions = away, versions
}

// ServeHTTP implements http.Handler.
func (o *offers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	resources, has := o.versions[strings.TrimPrefix(r.URL.Path, "/apis/policy.networking.k8s.io/")]
	switch {
	case o.away:
		w.WriteHeader(http.StatusServiceUnavailable)
	case !has:
		w.WriteHeader(http.StatusNotFound)
	default:
		list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"}}
		for _, name := range resources {
			list.APIResources = append(list.APIResources, metav1.APIResource{Name: name})
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(list)
	}
}

// kindOf is a kind that asks such a server, often, and its log.
func kindOf(t *testing.T, o *offers) (k *kind, logged func() []string) {
	t.Helper()
	server := httptest.NewServer(o)
	t.Cleanup(server.Close)
	var mu sync.Mutex
	var lines []string
	log := funcr.New(func(_, text string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, text)
	}, funcr.Options{})
	k, err := newKind(&rest.Config{Host: server.URL, QPS: -1}, server.Client(), time.Millisecond, func(error) {}, log)
	if err != nil {
		t.Fatal(err)
	}
	return k, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(lines)
	}
}

var both = []string{"clusternetworkpolicies", "clusternetworkpolicies/status"}

func TestServed(t *testing.T) {
	for _, c := range []struct {
		name     string
		versions map[string][]string
		want     string
	}{
		{"nothing", nil, ""},
		{"other kinds", map[string][]string{"v1alpha1": {"adminnetworkpolicies"}, "v1beta1": {"others", "others/status"}}, ""},
		{"no status", map[string][]string{"v1beta1": both[:1]}, ""},
		{"the best", map[string][]string{"v1beta1": both, "v1alpha2": both}, "v1beta1"},
		{"an old one", map[string][]string{"v1alpha2": both}, "v1alpha2"},
		{"an old one beside other kinds", map[string][]string{"v1beta1": {"others"}, "v1alpha2": both}, "v1alpha2"},
		{"a new one", map[string][]string{"v2": both}, ""},
	} {
		k, _ := kindOf(t, &offers{versions: c.versions})
		if got, err := k.served(t.Context()); got != c.want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
	k, _ := kindOf(t, &offers{away: true})
	if got, err := k.served(t.Context()); err == nil || !strings.Contains(err.Error(), "v1beta1") {
		t.Errorf("away: got %q, %v", got, err)
	}
}

// A watch lasts as long as its version is the one to be watched, and the next begins when it has
// ended. One that fails is begun again. An API server that is away changes nothing.
func TestFollow(t *testing.T) {
	o := &offers{}
	k, logged := kindOf(t, o)
	events, fail := make(chan string, 100), make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.follow(ctx, func(ctx context.Context, version string) error {
			events <- "began " + version
			defer func() { events <- "ended " + version }()
			select {
			case <-ctx.Done():
				time.Sleep(20 * time.Millisecond) // the next one must wait for it
				return nil
			case err := <-fail:
				return err
			}
		})
	}()
	next := func(wants ...string) {
		t.Helper()
		for _, want := range wants {
			select {
			case got := <-events:
				if got != want {
					t.Fatalf("got %q, want %q", got, want)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%q has not come", want)
			}
		}
	}
	quiet := func() {
		t.Helper()
		time.Sleep(50 * time.Millisecond)
		if len(events) > 0 {
			t.Fatalf("%d watches have begun or ended", len(events))
		}
	}
	next("began ")
	quiet()
	o.set(false, map[string][]string{"v1alpha2": both})
	next("ended ", "began v1alpha2")
	o.set(true, nil)
	quiet()
	if lines := logged(); len(lines) != 1 || !strings.Contains(lines[0], "Cannot find out") {
		t.Errorf("while it was away, it has said %q", lines)
	}
	o.set(false, map[string][]string{"v1alpha2": both})
	quiet()
	fail <- errors.New("on purpose")
	next("ended v1alpha2", "began v1alpha2")
	if lines := logged(); len(lines) != 2 || !strings.Contains(lines[1], "on purpose") {
		t.Errorf("when a watch has failed, it has said %q", lines)
	}
	o.set(false, map[string][]string{"v1alpha2": both, "v1beta1": both})
	next("ended v1alpha2", "began v1beta1")
	cancel()
	next("ended v1beta1")
	<-done
}
