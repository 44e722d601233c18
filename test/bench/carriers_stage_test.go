package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/test/apiserver"
)

// shop is the namespace of the pods that carriers are about.
const shop = "shop"

// watched is a resource that agents watch, and how.
type watched struct {
	path, prefix string // in the API server, in etcd
	contentType  string // controller-runtime's choice: JSON of custom resources, else protobuf
}

var (
	podAddresses = watched{"/apis/podfence.io/v1alpha1/podaddresses", "/registry/podfence.io/podaddresses/", runtime.ContentTypeJSON}
	pods         = watched{"/api/v1/pods", "/registry/pods/", runtime.ContentTypeProtobuf}
	nodes        = watched{"/api/v1/nodes", "/registry/minions/", runtime.ContentTypeProtobuf}
)

// key is an object of that resource in etcd.
func (w watched) key(name string) func(int) string {
	return func(int) string { return w.prefix + name }
}

// apiStage is an API server that knows PodAddresses, and a client as an agent has it, which may do
// everything.
type apiStage struct {
	*apiserver.Server
	client.Client
	// controllerManager, scheduler and kubelet write what those write, in their names.
	controllerManager, scheduler, kubelet corev1client.CoreV1Interface

	created []byte            // the pod's manifest
	shown   []json.RawMessage // its statuses, as patches
	count   int               // of nodes
}

func newAPIStage(b *testing.B) *apiStage {
	b.Helper()
	s := &apiStage{}
	var err error
	s.Server, err = apiserver.New()
	must(b, err)
	b.Cleanup(func() { must(b, s.Close()) })
	_, err = envtest.InstallCRDs(s.Config, envtest.CRDInstallOptions{Paths: []string{"../../config/crd/podfence.io_podaddresses.yaml"}})
	must(b, err)
	s.Client = s.agent(b, rest.ImpersonationConfig{})
	for _, by := range []struct {
		name   string
		client *corev1client.CoreV1Interface
	}{{"kube-controller-manager", &s.controllerManager}, {"kube-scheduler", &s.scheduler}, {"kubelet", &s.kubelet}} {
		config := rest.CopyConfig(s.Config)
		config.UserAgent = by.name + "/v1.37.0" // the name of the fields' manager
		api, err := kubernetes.NewForConfig(config)
		must(b, err)
		*by.client = api.CoreV1()
	}
	s.created, err = os.ReadFile("testdata/pod.yaml")
	must(b, err)
	statuses, err := os.ReadFile("testdata/statuses.yaml")
	must(b, err)
	must(b, yaml.Unmarshal(statuses, &s.shown))
	_, err = s.API.CoreV1().Namespaces().Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: shop}}, metav1.CreateOptions{})
	must(b, err)
	return s
}

// agent is a client as an agent has it: JSON for PodAddresses, protobuf for the others.
func (s *apiStage) agent(b *testing.B, as rest.ImpersonationConfig) client.Client {
	b.Helper()
	all := runtime.NewScheme()
	must(b, errors.Join(clientgoscheme.AddToScheme(all), v1alpha1.AddToScheme(all)))
	config := rest.CopyConfig(s.Config)
	config.ContentType, config.Impersonate = "", as
	c, err := client.New(config, client.Options{Scheme: all})
	must(b, err)
	return c
}

// newNode is the name of a node that was not used yet.
func (s *apiStage) newNode() string {
	s.count++
	return fmt.Sprint("node-", s.count)
}

// events are the sizes of a watch's events, as they come.
type events chan int

// watch watches all of a resource, from now on, until the benchmark ends.
func (s *apiStage) watch(b *testing.B, w watched) events {
	b.Helper()
	get := func() *rest.Request { return s.API.CoreV1().RESTClient().Get().AbsPath(w.path) }
	text, err := get().Param("limit", "1").SetHeader("Accept", runtime.ContentTypeJSON).DoRaw(context.Background())
	must(b, err)
	var list metav1.PartialObjectMetadataList
	must(b, json.Unmarshal(text, &list))
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := get().Param("watch", "true").Param("resourceVersion", list.ResourceVersion).SetHeader("Accept", w.contentType).Stream(ctx)
	must(b, err)
	b.Cleanup(func() { cancel(); _ = stream.Close() })
	sizes := make(events, 16)
	go func() {
		defer close(sizes)
		for in := bufio.NewReader(stream); ; {
			size, err := w.readEvent(in)
			if err != nil {
				return
			}
			select {
			case sizes <- size:
			case <-ctx.Done():
			}
		}
	}()
	return sizes
}

// readEvent reads one event, and returns how long it was: protobuf has its length before it, JSON
// is a line.
func (w watched) readEvent(in *bufio.Reader) (size int, err error) {
	if w.contentType == runtime.ContentTypeJSON {
		line, err := in.ReadBytes('\n')
		return len(line), err
	}
	var length [4]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return 0, err
	}
	size = int(binary.BigEndian.Uint32(length[:]))
	_, err = in.Discard(size)
	return len(length) + size, err
}

// next waits for an event, and returns its size.
func (e events) next(b *testing.B) int {
	b.Helper()
	select {
	case size, open := <-e:
		if open {
			return size
		}
		b.Fatal("the watch has ended")
	case <-time.After(10 * time.Second):
		b.Fatal("no event came")
	}
	return 0
}

// etcd is how many objects etcd has written or deleted, and how many bytes it has written to its
// log, for whatever reason.
func (s *apiStage) etcd(b *testing.B) (writes, bytes float64) {
	b.Helper()
	response, err := http.Get(s.Etcd() + "/metrics")
	must(b, err)
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	must(b, err)
	value := func(name string) float64 {
		family := families[name]
		if family == nil {
			b.Fatalf("etcd has no %s", name)
		}
		return family.Metric[0].GetCounter().GetValue() + family.Metric[0].GetGauge().GetValue()
	}
	return value("etcd_mvcc_put_total") + value("etcd_mvcc_delete_total"), value("etcd_disk_wal_write_bytes_total")
}

// stored is how many bytes etcd has as the value of a key.
func (s *apiStage) stored(b *testing.B, key string) int {
	b.Helper()
	question := fmt.Sprintf(`{"key":%q}`, base64.StdEncoding.EncodeToString([]byte(key)))
	response, err := http.Post(s.Etcd()+"/v3/kv/range", "application/json", bytes.NewBufferString(question))
	must(b, err)
	defer response.Body.Close()
	var answer struct {
		KVs []struct {
			Value []byte `json:"value"`
		} `json:"kvs"`
	}
	must(b, json.NewDecoder(response.Body).Decode(&answer))
	if len(answer.KVs) != 1 {
		b.Fatalf("etcd has %d values of %s", len(answer.KVs), key)
	}
	return len(answer.KVs[0].Value)
}

// life is that of one pod of a Deployment: what the controller manager, the scheduler and kubelet
// write of it, each step one request.
type life struct {
	*apiStage
	node string
	pod  *corev1.Pod
}

// lifeAfterADD is how many events there are from an ADD on: one of each step, and one more of the
// last, as the API server takes the pod's grace from it before it deletes it.
const lifeAfterADD = 6

func (s *apiStage) newLife(node string) (*life, error) {
	pod := &corev1.Pod{}
	return &life{s, node, pod}, yaml.UnmarshalStrict(s.created, pod)
}

func (l *life) untilADD() []func() error { return []func() error{l.create, l.bind, l.show(0)} }

func (l *life) untilRunning() []func() error { return append(l.untilADD(), l.show(1), l.show(2)) }

func (l *life) untilGone() []func() error {
	seconds := int64(0)
	return []func() error{l.remove(metav1.DeleteOptions{}), l.show(3), l.remove(metav1.DeleteOptions{GracePeriodSeconds: &seconds})}
}

func (l *life) create() (err error) {
	l.pod, err = l.controllerManager.Pods(shop).Create(context.Background(), l.pod, metav1.CreateOptions{})
	return err
}

func (l *life) bind() error {
	return l.scheduler.Pods(shop).Bind(context.Background(), &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: l.pod.Name, UID: l.pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: l.node},
	}, metav1.CreateOptions{})
}

// show has kubelet write the nth status.
func (l *life) show(n int) func() error {
	return func() error {
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"status":%s}`, l.pod.UID, l.shown[n])
		_, err := l.kubelet.Pods(shop).Patch(context.Background(), l.pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		return err
	}
}

func (l *life) remove(o metav1.DeleteOptions) func() error {
	return func() error { return l.kubelet.Pods(shop).Delete(context.Background(), l.pod.Name, o) }
}

// realNode is a Node as kubelet and a cloud's controllers write it, with the fifty images that
// kubelet shows by default.
func realNode(name, podCIDR string) *corev1.Node {
	labels := map[string]string{
		corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
		corev1.LabelTopologyZone: "region-1a", corev1.LabelTopologyRegion: "region-1", corev1.LabelInstanceTypeStable: "m5.2xlarge",
		"node.kubernetes.io/lifecycle": "on-demand", "example.com/node-pool": "general",
	}
	size := corev1.ResourceList{}
	for what, quantity := range map[corev1.ResourceName]string{
		"cpu": "8", "memory": "32386544Ki", "ephemeral-storage": "83873772Ki", "pods": "110", "hugepages-1Gi": "0", "hugepages-2Mi": "0",
	} {
		size[what] = resource.MustParse(quantity)
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels, Annotations: map[string]string{
			"node.alpha.kubernetes.io/ttl": "0", "volumes.kubernetes.io/controller-managed-attach-detach": "true",
			"csi.volume.kubernetes.io/nodeid": `{"ebs.csi.example.com":"i-0a1b2c3d4e5f60718"}`,
		}},
		Spec: corev1.NodeSpec{PodCIDR: podCIDR, PodCIDRs: []string{podCIDR}, ProviderID: "cloud:///region-1a/i-0a1b2c3d4e5f60718"},
		Status: corev1.NodeStatus{
			Capacity: size, Allocatable: size,
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "172.16.0.17"}, {Type: corev1.NodeHostName, Address: name}},
			NodeInfo: corev1.NodeSystemInfo{
				MachineID: "0f6c1a8e5b7d4c3f9a2e8d7b6c5f4e3d", SystemUUID: "0f6c1a8e-5b7d-4c3f-9a2e-8d7b6c5f4e3d", BootID: "5d1e7c3a-2b4f-4a6e-9c8d-7e6f5a4b3c2d",
				KernelVersion: "6.18.44", OSImage: "Debian GNU/Linux 13 (trixie)", ContainerRuntimeVersion: "containerd://2.2.0",
				KubeletVersion: "v1.37.0", OperatingSystem: "linux", Architecture: "amd64",
			},
		},
	}
	for _, kind := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeReady} {
		node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{
			Type: kind, Status: corev1.ConditionFalse, Reason: "KubeletHas" + string(kind), Message: "kubelet says so, in about as many words as these",
			LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(),
		})
	}
	for n := range 50 {
		image := fmt.Sprintf("registry.example.com/team-%d/service-%d", n%7, n)
		node.Status.Images = append(node.Status.Images, corev1.ContainerImage{
			Names: []string{fmt.Sprintf("%s@sha256:%064x", image, n), image + ":2.31.4"}, SizeBytes: 48_000_000 + int64(n),
		})
	}
	return node
}
