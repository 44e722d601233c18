// Package relist has a reflector list again whenever a watch has ended.
package relist

import (
	"context"
	"errors"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
)

// ErrEnded ends a reflector's ListAndWatch when its watch has ended. It is no failure.
var ErrEnded = errors.New("the watch has ended, so what there is is listed again")

// AfterEachWatch returns what a reflector of a kind that a CustomResourceDefinition defines lists and
// watches by, if it must have all fields of what there is.
//
// A reflector of its own resumes a watch that has ended after what it was sent last. But when the
// definition changes, kube-apiserver keeps the watches of before for a second, or as long as other
// requests of before take. What is written in that time is sent to them without the fields that only
// the new definition has, and by its resourceVersion it would never be sent again. So each watch begins
// with all that there is, or follows a list.
//
// All watches are followed by a list, also those that end when their time is over: of many clients some
// have watches that do so within just that second. No request says whether the definition has changed.
//
// What is listed then is of the new definition: kube-apiserver takes the old one's storage, with its
// watch cache, out of use before it waits, and ends the watches after that (removeStorage_locked and
// tearDown in k8s.io/apiextensions-apiserver/pkg/apiserver/customresource_handler.go). As a storage has
// a watch cache of its own, it need not be a read from etcd: the reflector asks for a state that is at
// least as new as what it was sent last, and so goes neither without the fields nor back in time.
func AfterEachWatch(of toolscache.ListerWatcher) toolscache.ListerWatcher {
	requests := toolscache.ToListerWatcherWithContext(of)
	var listed atomic.Bool // and not watched since
	return toolscache.ToListWatcherWithWatchListSemantics(&toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			listed.Store(true)
			return requests.ListWithContext(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			lists := o.SendInitialEvents != nil && *o.SendInitialEvents
			if !listed.Swap(false) && !lists {
				return nil, ErrEnded
			}
			return requests.WatchWithContext(ctx, o)
		},
	}, of)
}
