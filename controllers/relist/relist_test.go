package relist_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/watchlist"

	"github.com/podfence/podfence/controllers/relist"
)

// requests notes what it is asked for, and lets nobody have it.
type requests struct {
	asked   []string
	noLists bool
}

var errAsked = errors.New("asked")

func (r *requests) List(metav1.ListOptions) (runtime.Object, error) {
	r.asked = append(r.asked, "list")
	return nil, errAsked
}

func (r *requests) Watch(metav1.ListOptions) (watch.Interface, error) {
	r.asked = append(r.asked, "watch")
	return nil, errAsked
}

func (r *requests) IsWatchListSemanticsUnSupported() bool { return r.noLists }

// TestAfterEachWatch: a watch follows a list, or begins with one; whether it was opened or not. None is
// resumed.
func TestAfterEachWatch(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps []string
		ends  []int // which of the steps end it
	}{
		{"lists", []string{"list", "watch", "watch", "watch", "list", "watch", "watch"}, []int{2, 3, 6}},
		{"watches that begin with a list", []string{"all", "watch", "all", "all", "watch"}, []int{1, 4}},
		{"no list", []string{"watch"}, []int{0}},
		{"a watch that cannot begin with a list", []string{"all", "list", "watch", "watch"}, []int{3}},
		{"a list that failed", []string{"list", "all", "watch"}, []int{2}},
	} {
		r := &requests{}
		lw := toolscache.ToListerWatcherWithContext(relist.AfterEachWatch(r))
		for i, step := range c.steps {
			before, err := len(r.asked), error(nil)
			switch step {
			case "list":
				_, err = lw.ListWithContext(context.Background(), metav1.ListOptions{})
			case "all":
				_, err = lw.WatchWithContext(context.Background(), metav1.ListOptions{SendInitialEvents: new(true)})
			case "watch":
				_, err = lw.WatchWithContext(context.Background(), metav1.ListOptions{SendInitialEvents: new(false)})
			}
			ended := errors.Is(err, relist.ErrEnded)
			if ended != slices.Contains(c.ends, i) || ended == errors.Is(err, errAsked) || (len(r.asked) == before) != ended {
				t.Errorf("%s: step %d, %s: %v, and was asked for %v", c.name, i, step, err, r.asked)
			}
		}
	}
}

// TestListsOnly: whoever cannot send what there is in a watch still cannot.
func TestListsOnly(t *testing.T) {
	for _, no := range []bool{false, true} {
		if watchlist.DoesClientNotSupportWatchListSemantics(relist.AfterEachWatch(&requests{noLists: no})) != no {
			t.Errorf("it says otherwise than %v", no)
		}
	}
}
