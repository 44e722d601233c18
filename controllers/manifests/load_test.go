package manifests

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// kubectl is what `kubectl get pods,ns,netpol,nodes -A -o yaml` prints,
// shortened in length but not in kinds of fields.
const kubectl = `apiVersion: v1
items:
- apiVersion: v1
  kind: Pod
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{},"name":"db-0","namespace":"shop"}}
    creationTimestamp: "2026-08-01T10:00:00Z"
    generateName: db-
    labels:
      app: db
      apps.kubernetes.io/pod-index: "0"
    managedFields:
    - apiVersion: v1
      fieldsType: FieldsV1
      fieldsV1:
        f:metadata:
          f:labels:
            .: {}
            f:app: {}
          f:ownerReferences:
            .: {}
            k:{"uid":"5f1c9bb4-5a76-4d5f-9b52-8ff2d52e8a35"}: {}
      manager: kube-controller-manager
      operation: Update
      time: "2026-08-01T10:00:00Z"
    name: db-0
    namespace: shop
    ownerReferences:
    - apiVersion: apps/v1
      blockOwnerDeletion: true
      controller: true
      kind: StatefulSet
      name: db
      uid: 5f1c9bb4-5a76-4d5f-9b52-8ff2d52e8a35
    resourceVersion: "1234"
    uid: 0c0e6a4c-3a86-4f2f-9d69-6a1e1a0c1f10
  spec:
    containers:
    - image: postgres:17
      imagePullPolicy: IfNotPresent
      livenessProbe:
        failureThreshold: 3
        httpGet:
          path: /healthz
          port: probe
          scheme: HTTP
      name: db
      ports:
      - containerPort: 5432
        name: postgres
        protocol: TCP
      resources:
        limits:
          cpu: 500m
          memory: 1Gi
        requests:
          cpu: "0.5"
          memory: 1073741824
      volumeMounts:
      - mountPath: /var/run/secrets/kubernetes.io/serviceaccount
        name: kube-api-access-x
        readOnly: true
    nodeName: worker-1
    tolerations:
    - effect: NoExecute
      key: node.kubernetes.io/not-ready
      operator: Exists
      tolerationSeconds: 300
    volumes:
    - name: kube-api-access-x
      projected:
        defaultMode: 420
        sources:
        - serviceAccountToken:
            expirationSeconds: 3607
            path: token
  status:
    conditions:
    - lastProbeTime: null
      lastTransitionTime: "2026-08-01T10:00:05Z"
      status: "True"
      type: Ready
    containerStatuses:
    - name: db
      ready: true
      restartCount: 0
      image: postgres:17
      imageID: ""
      started: true
      state:
        running:
          startedAt: "2026-08-01T10:00:04Z"
    hostIP: 192.168.0.11
    phase: Running
    podIP: 10.244.1.7
    podIPs:
    - ip: 10.244.1.7
    - ip: fd00:10:244:1::7
    qosClass: Burstable
    startTime: "2026-08-01T10:00:01Z"
- apiVersion: v1
  kind: Namespace
  metadata:
    creationTimestamp: "2026-08-01T09:00:00Z"
    labels:
      kubernetes.io/metadata.name: shop
      team: shop
    name: shop
    resourceVersion: "3"
    uid: a
  spec:
    finalizers:
    - kubernetes
  status:
    phase: Active
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata:
    creationTimestamp: "2026-08-01T09:30:00Z"
    generation: 2
    name: db
    namespace: shop
  spec:
    ingress:
    - from:
      - namespaceSelector: {}
        podSelector:
          matchExpressions:
          - key: app
            operator: In
            values:
            - web
      - ipBlock:
          cidr: 10.0.0.0/8
          except:
          - 10.1.0.0/16
      ports:
      - port: postgres
        protocol: TCP
      - endPort: 6010
        port: 6000
        protocol: TCP
    podSelector:
      matchLabels:
        app: db
    policyTypes:
    - Ingress
- apiVersion: v1
  kind: Node
  metadata:
    annotations:
      node.alpha.kubernetes.io/ttl: "0"
    labels:
      node-role.kubernetes.io/control-plane: ""
    name: worker-1
  spec:
    podCIDR: 10.244.1.0/24
    podCIDRs:
    - 10.244.1.0/24
    - fd00:10:244:1::/64
    taints:
    - effect: NoSchedule
      key: node-role.kubernetes.io/control-plane
  status:
    addresses:
    - address: 192.168.0.11
      type: InternalIP
    allocatable:
      cpu: "4"
      memory: 8131904Ki
    daemonEndpoints:
      kubeletEndpoint:
        Port: 10250
    images:
    - names:
      - registry.k8s.io/pause:3.10
      sizeBytes: 319000
    nodeInfo:
      architecture: amd64
      bootID: ""
      containerRuntimeVersion: containerd://2.0
      kernelVersion: "6.18"
      kubeProxyVersion: ""
      kubeletVersion: v1.37.0
      machineID: ""
      operatingSystem: linux
      osImage: x
      systemUUID: ""
kind: List
metadata:
  resourceVersion: ""
`

// folder writes files below a new folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		write(t, filepath.Join(dir, name), content)
	}
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func nodeYAML(name string) string {
	return "apiVersion: v1\nkind: Node\nmetadata:\n  name: " + name + "\n"
}

// loaded are the names of the nodes of a folder.
func loaded(t *testing.T, path string) []string {
	t.Helper()
	s, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range s.Nodes {
		names = append(names, n.Name)
	}
	return names
}

func TestLoadKubectl(t *testing.T) {
	s, err := Load(folder(t, map[string]string{"all.yaml": kubectl}))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Pods) != 1 || len(s.Namespaces) != 1 || len(s.Policies) != 1 || len(s.Nodes) != 1 {
		t.Fatalf("read %v", s)
	}
	if s.Pods[0].Status.PodIPs[1].IP != "fd00:10:244:1::7" || s.Namespaces[0].Labels["team"] != "shop" ||
		s.Policies[0].Spec.Ingress[0].Ports[1].Port.IntVal != 6000 || s.Nodes[0].Spec.PodCIDRs[1] != "fd00:10:244:1::/64" {
		t.Errorf("read %v", s)
	}
}

func TestLoadFolder(t *testing.T) {
	dir := folder(t, map[string]string{
		"b.yaml": nodeYAML("b"), "a.yml": nodeYAML("c"), "sub/deep/x.json": `{"apiVersion":"v1","kind":"Node","metadata":{"name":"a"}}`,
		"README.md": "{", "c.yaml~": "{", ".hidden.yaml": "{", ".git/x.yaml": "{",
	})
	if got := loaded(t, dir); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("read %v", got)
	}
	if got := loaded(t, filepath.Join(dir, "b.yaml")); !slices.Equal(got, []string{"b"}) {
		t.Errorf("read %v", got)
	}
	if got := loaded(t, t.TempDir()); got != nil {
		t.Errorf("read %v from an empty folder", got)
	}
}

// mount makes a folder like that of a mounted ConfigMap, and returns how to
// update it.
func mount(t *testing.T) (dir string, update func(version string, files map[string]string)) {
	t.Helper()
	dir = t.TempDir()
	old := ""
	return dir, func(version string, files map[string]string) {
		t.Helper()
		for name, content := range files {
			write(t, filepath.Join(dir, version, name), content)
			first, _, _ := strings.Cut(name, "/")
			if _, err := os.Lstat(filepath.Join(dir, first)); err != nil {
				symlink(t, "..data/"+first, filepath.Join(dir, first))
			}
		}
		symlink(t, version, filepath.Join(dir, "..data_tmp"))
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
		if old != "" {
			if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
				t.Fatal(err)
			}
		}
		old = version
	}
}

func TestLoadConfigMapMount(t *testing.T) {
	dir, update := mount(t)
	update("..2026_1", map[string]string{"a.yaml": nodeYAML("a"), "sub/b.yaml": nodeYAML("b")})
	if got := loaded(t, dir); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("read %v", got)
	}
	update("..2026_2", map[string]string{"a.yaml": nodeYAML("c"), "sub/b.yaml": nodeYAML("d")})
	if got := loaded(t, dir); !slices.Equal(got, []string{"c", "d"}) {
		t.Errorf("read %v after the update", got)
	}
}

// TestLoadDuringUpdates: files of two versions of a mount never come together.
func TestLoadDuringUpdates(t *testing.T) {
	dir, update := mount(t)
	files := func(version string) map[string]string {
		all := map[string]string{}
		for i := range 20 {
			name := fmt.Sprintf("n%02d", i)
			all[name+".yaml"] = nodeYAML(version + "-" + name)
		}
		return all
	}
	update("..v0", files("v0"))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			names := strings.Fields(nodesOf(dir))
			for _, name := range names {
				if version, _, _ := strings.Cut(names[0], "-"); !strings.HasPrefix(name, version+"-") && name != "error" {
					t.Errorf("%s and %s were read together", names[0], name)
					return
				}
			}
		}
	}()
	for i := 1; i <= 100; i++ {
		version := fmt.Sprintf("v%d", i)
		update(".."+version, files(version))
	}
	close(stop)
	<-done
}

// TestLoadReportsAll: the findings of all files, in order, and the text of an
// operating system's error once.
func TestLoadReportsAll(t *testing.T) {
	dir := folder(t, map[string]string{
		"a.yaml":   nodeYAML("a") + "---\n" + policyWith("spec:\n  podSelector: {}\n  ingress:\n  - from:\n    - podSelector: {}\n    - ipBlock: {cidr: x}\n  polcyTypes: []\n"),
		"b.yaml":   nodeYAML("a"),
		"c.yaml":   "a: b: c\n",
		"d/x.yaml": nodeYAML("x") + "spec: {podCIDRs: [z]}\n",
	})
	symlink(t, "nowhere", filepath.Join(dir, "e.yaml"))
	symlink(t, "..", filepath.Join(dir, "d", "up"))
	_, err := Load(dir)
	if err == nil {
		t.Fatal("no error")
	}
	real, evalErr := filepath.EvalSymlinks(dir)
	if evalErr != nil {
		t.Fatal(evalErr)
	}
	got := strings.ReplaceAll(err.Error(), dir+"/", "")
	want := `a.yaml:14: NetworkPolicy shop/db: spec.ingress[0].from[1].ipBlock.cidr: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)
a.yaml:15: NetworkPolicy shop/db: spec.polcyTypes: unknown field
b.yaml:4: Node a: metadata.name: Duplicate value: "a": the same object is at a.yaml:4
c.yaml:1: mapping values are not allowed in this context
d/up: leads to ` + real + `, which is read already
d/x.yaml:5: Node x: spec.podCIDRs[0]: Invalid value: "z": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)
e.yaml: no such file or directory`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}

	var finding *Error
	var invalid *field.Error
	if !errors.As(err, &finding) || finding.Line != 14 || finding.Field != "spec.ingress[0].from[1].ipBlock.cidr" || !errors.As(err, &invalid) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the findings cannot be told apart: %#v", finding)
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "none")); err == nil || err.Error() != dir+"/none: no such file or directory" {
		t.Errorf("a missing folder: %v", err)
	}
	large := filepath.Join(dir, "large.yaml")
	write(t, large, "")
	if err := os.Truncate(large, maxFile+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || err.Error() != large+": larger than 64 MiB" {
		t.Errorf("a large file: %v", err)
	}
	if err := os.Remove(large); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder.yaml"), 0o755); err != nil { // is a folder like any other
		t.Fatal(err)
	}
	symlink(t, "/dev/zero", filepath.Join(dir, "zero.yaml"))
	if _, err := Load(dir); err == nil || err.Error() != dir+"/zero.yaml: not a regular file" {
		t.Errorf("a device: %v", err)
	}
	if os.Getuid() == 0 {
		return // root reads everything
	}
	if err := os.Chmod(dir, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || err.Error() != dir+": permission denied" {
		t.Errorf("an unreadable folder: %v", err)
	}
}
