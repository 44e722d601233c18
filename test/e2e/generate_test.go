//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/test/check"
)

// seenShop is a Deployment with probes behind a Service, who asks it, a CronJob that does, and a stranger that does
// nothing.
type seenShop struct {
	namespace        string
	servers          []*corev1.Pod
	client, stranger *corev1.Pod
	service          *corev1.Service
	cronJob          *batchv1.CronJob
}

func newSeenShop(t *testing.T) *seenShop {
	t.Helper()
	ctx := context.Background()
	s := &seenShop{namespace: newNamespace(t)}
	server := newPod(s.namespace, "server", labelled("app.kubernetes.io/version", "1"), probed(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}), func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
	})
	replicas := int32(2)
	by := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "server"}}
	_, err := client.AppsV1().Deployments(s.namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "server"},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: by, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: server.Labels}, Spec: server.Spec,
		}},
	}, metav1.CreateOptions{})
	check.NoError(t, err)
	s.service = newService(t, s.namespace, "server", "server")
	suspended := true
	s.cronJob, err = client.BatchV1().CronJobs(s.namespace).Create(ctx, &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "report"},
		Spec: batchv1.CronJobSpec{Schedule: "0 3 * * *", Suspend: &suspended, JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "report"}},
			Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
				Name: "agnhost", Image: agnhost, ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{"connect", "--timeout=10s", "server:80"},
			}}},
		}}}},
	}, metav1.CreateOptions{})
	check.NoError(t, err)
	pods := start(t, newPod(s.namespace, "client", on("node1")), newPod(s.namespace, "stranger", on("node2")))
	s.client, s.stranger = pods[0], pods[1]
	check.Eventually(t, 2*time.Minute, "the Deployment's pods to be Ready", func() error {
		all, err := client.CoreV1().Pods(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=server"})
		if err != nil {
			return err
		}
		s.servers = nil
		for i := range all.Items {
			if isReady(&all.Items[i]) {
				s.servers = append(s.servers, &all.Items[i])
			}
		}
		if len(s.servers) != int(replicas) {
			return fmt.Errorf("%d are", len(s.servers))
		}
		return nil
	})
	return s
}

// report runs a Job of the CronJob, as its controller would for a minute, until it has succeeded, and deletes it.
func (s *seenShop) report(t *testing.T, minute int) {
	t.Helper()
	ctx := context.Background()
	name := fmt.Sprintf("report-%d", minute)
	_, err := client.BatchV1().Jobs(s.namespace).Create(ctx, &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s.cronJob, batchv1.SchemeGroupVersion.WithKind("CronJob"))}},
		Spec:       s.cronJob.Spec.JobTemplate.Spec,
	}, metav1.CreateOptions{})
	check.NoError(t, err)
	check.Eventually(t, time.Minute, "Job "+name+" to succeed", func() error {
		job, err := client.BatchV1().Jobs(s.namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && job.Status.Succeeded == 0 {
			err = fmt.Errorf("%d of its pods have failed", job.Status.Failed)
		}
		return err
	})
	background := metav1.DeletePropagationBackground
	check.NoError(t, client.BatchV1().Jobs(s.namespace).Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &background}))
}

// outside are the ways of a pod to an address outside the cluster: the API server's own.
func (s *seenShop) outside(t *testing.T, from *corev1.Pod) []way {
	t.Helper()
	all := ways(from.Name+" to the outside", netnsOf(t, from), outsideIPs(t)[:1], 6443, 0)
	for i := range all {
		all[i].foreign = true
	}
	return all
}

// meant are the ways that are used.
func (s *seenShop) meant(t *testing.T) []way {
	t.Helper()
	return append(waysToService("client to the Service", netnsOf(t, s.client), s.service), s.outside(t, s.client)...)
}

// unmeant are ways that nobody uses.
func (s *seenShop) unmeant(t *testing.T) (all []way) {
	t.Helper()
	stranger := netnsOf(t, s.stranger)
	all = append(all, waysToService("stranger to the Service", stranger, s.service)...)
	all = append(all, s.outside(t, s.stranger)...)
	all = append(all, waysToPod("client to stranger", netnsOf(t, s.client), s.stranger)...)
	for _, server := range s.servers {
		all = append(all, waysToPod("stranger to "+server.Name, stranger, server)...)
		all = append(all, waysToPod(server.Name+" to client", netnsOf(t, server), s.client)...)
		all = append(all, s.outside(t, server)...)
	}
	return all
}

// TestGenerate: the policies that kubectl podfence generate writes of what it has observed let all of that pass again, with DNS,
// probes and the next Job of a CronJob, and nothing else.
func TestGenerate(t *testing.T) {
	p, s := newPlugin(t), newSeenShop(t)
	folder := t.TempDir()
	observing := p.begin(t, "generate", "-n", s.namespace, "--for", "10m", "--isolate-unseen", "--output-dir", folder)
	time.Sleep(5 * time.Second) // until all agents observe
	s.report(t, 29000001)
	expectWays(t, "what is meant, while it is observed", s.meant(t), nil)
	name := "server." + s.namespace + ".svc.cluster.local"
	check.NoError(t, resolves(t, []*corev1.Pod{s.client}, "udp", name, s.service.Spec.ClusterIPs))
	time.Sleep(2 * time.Second) // until all is told
	code, said := observing.interrupt(t)
	if code != 0 {
		t.Fatalf("generate: exit code %d: %s", code, said)
	}
	t.Log(said)
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	check.NoError(t, err)
	var names []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		check.NoError(t, err)
		if strings.Contains(string(text), "pod-template-hash") || strings.Contains(string(text), "job-name") || strings.Contains(string(text), "kubernetes.io/version") {
			t.Errorf("%s has labels that pass:\n%s", file, text)
		}
		names = append(names, strings.TrimPrefix(filepath.Base(file), s.namespace+"_"))
	}
	if fmt.Sprint(names) != "[client.yaml report.yaml server.yaml stranger.yaml]" {
		t.Errorf("policies: %v\n%s", names, said)
	}
	if _, err := theCluster.Kubectl(context.Background(), "apply", "-f", folder); err != nil {
		t.Fatal(err)
	}

	expectWays(t, "what was seen, and nothing else", s.meant(t), s.unmeant(t))
	check.NoError(t, resolves(t, append([]*corev1.Pod{s.client, s.stranger}, s.servers...), "udp", name, s.service.Spec.ClusterIPs))
	s.report(t, 29000002)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		for _, server := range s.servers {
			check.NoError(t, steadilyReady(server))
		}
	}
	// It was policies that kept the others away.
	if _, err := theCluster.Kubectl(context.Background(), "delete", "-f", folder); err != nil {
		t.Fatal(err)
	}
	expectWays(t, "everything to be open without the policies", slices.Concat(s.meant(t), s.unmeant(t)), nil)
}

// underway is a call of kubectl podfence that has not ended.
type underway struct {
	cmd  *exec.Cmd
	said *bytes.Buffer
}

// begin begins a call, which ends with the test at the latest.
func (p plugin) begin(t *testing.T, args ...string) underway {
	t.Helper()
	cmd, err := theCluster.KubectlCommand(t.Context(), append([]string{"podfence"}, args...)...)
	check.NoError(t, err)
	cmd.Env = append(cmd.Env, "PATH="+p.folder+":"+os.Getenv("PATH"))
	u := underway{cmd, &bytes.Buffer{}}
	cmd.Stdout, cmd.Stderr = u.said, u.said
	check.NoError(t, cmd.Start())
	return u
}

// interrupt does as Ctrl-C does, and returns the exit code and all that was printed. kubectl has become the plugin, so that it gets
// the signal.
func (u underway) interrupt(t *testing.T) (code int, said string) {
	t.Helper()
	check.NoError(t, u.cmd.Process.Signal(os.Interrupt))
	var exit *exec.ExitError
	if err := u.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return u.cmd.ProcessState.ExitCode(), u.said.String()
}
