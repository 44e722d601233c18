package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/podfence/podfence/test/apiserver"
)

// replay is an API server whose pods are a stream of this program's making: a
// real one cannot write a thousand pods a second on two processors, and leave the
// agent any. All else it asks a real one for.
type replay struct {
	kubeconfig []byte
	others     *httputil.ReverseProxy
	encoder    runtime.Encoder
	info       runtime.SerializerInfo

	mu      sync.Mutex
	version int
	pods    map[types.NamespacedName]*corev1.Pod
	watcher chan<- watch.Event // nil: nobody watches
}

func newReplay(b *testing.B, config *rest.Config) *replay {
	b.Helper()
	target, err := url.Parse(config.Host)
	must(b, err)
	info, known := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !known {
		b.Fatal("client-go has no protobuf serializer")
	}
	r := &replay{
		others: httputil.NewSingleHostReverseProxy(target), info: info, version: 1_000_000,
		encoder: scheme.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion),
		pods:    map[types.NamespacedName]*corev1.Pod{},
	}
	r.others.FlushInterval = -1 // watches
	r.others.Transport, err = rest.TransportFor(config)
	must(b, err)
	r.kubeconfig = apiserver.Serve(b, r)
	return r
}

// ServeHTTP implements http.Handler.
func (r *replay) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if request.URL.Path != "/api/v1/pods" {
		r.others.ServeHTTP(w, request)
		return
	}
	query := request.URL.Query()
	if query.Get("watch") == "" || query.Get("sendInitialEvents") != "true" {
		// Reflectors that cannot stream their first list, or come back for more.
		http.Error(w, "only a first watch that lists too is served", http.StatusNotImplemented)
		return
	}
	w.Header().Set("Content-Type", runtime.ContentTypeProtobuf+";stream=watch")
	w.WriteHeader(http.StatusOK)
	if err := r.stream(request.Context(), w); err != nil && request.Context().Err() == nil {
		panic(fmt.Sprintf("replay: %v", err)) // the connection is cut, and the server's log says why
	}
}

// stream writes the pods that there are, a bookmark, and then what is sent.
func (r *replay) stream(ctx context.Context, w http.ResponseWriter) error {
	events := make(chan watch.Event, 100_000)
	r.mu.Lock()
	for _, pod := range r.pods {
		events <- watch.Event{Type: watch.Added, Object: pod}
	}
	events <- watch.Event{Type: watch.Bookmark, Object: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		ResourceVersion: strconv.Itoa(r.version), Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"},
	}}}
	r.watcher = events
	r.mu.Unlock()
	frames := r.info.StreamSerializer.Framer.NewFrameWriter(w)
	encoder := streaming.NewEncoder(frames, scheme.Codecs.EncoderForVersion(r.info.StreamSerializer.Serializer, corev1.SchemeGroupVersion))
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-events:
			var object bytes.Buffer
			if err := r.encoder.Encode(event.Object, &object); err != nil {
				return err
			}
			if err := encoder.Encode(&metav1.WatchEvent{Type: string(event.Type), Object: runtime.RawExtension{Raw: object.Bytes()}}); err != nil {
				return err
			}
			if len(events) == 0 {
				w.(http.Flusher).Flush()
			}
		}
	}
}

// set creates a pod, or changes it; remove deletes it. Both are one event.
func (r *replay) set(pod *corev1.Pod) {
	kind := watch.Modified
	r.mu.Lock()
	defer r.mu.Unlock()
	key := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	if r.pods[key] == nil {
		kind = watch.Added
	}
	r.pods[key] = pod
	r.send(kind, pod)
}

func (r *replay) remove(pod *corev1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pods, types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
	r.send(watch.Deleted, pod.DeepCopy())
}

func (r *replay) send(kind watch.EventType, pod *corev1.Pod) {
	r.version++
	pod.ResourceVersion = strconv.Itoa(r.version)
	if r.watcher != nil {
		r.watcher <- watch.Event{Type: kind, Object: pod}
	}
}
