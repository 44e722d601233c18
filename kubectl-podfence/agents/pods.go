package agents

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/api/v1alpha1"
)

// isAgent reports whether a pod is an agent of podfence.
func isAgent(pod *corev1.Pod) bool {
	return pod.Spec.HostNetwork && v1alpha1.HasAgentLabels(pod.Labels)
}

// AllowToNode reports whether the agents among pods let pods reach their own node whatever policies say
// (--pod-to-node allow): if all of them do, as what some deny may be denied.
func AllowToNode(pods []*corev1.Pod) bool {
	found := false
	for _, pod := range pods {
		if !isAgent(pod) {
			continue
		}
		if found = true; choice(pod, "pod-to-node") != "allow" {
			return false
		}
	}
	return found
}

// portOf is the port at which an agent answers: that of its --query-address.
func portOf(pod *corev1.Pod) int {
	if _, text, err := net.SplitHostPort(choice(pod, "query-address")); err == nil {
		if port, err := strconv.ParseUint(text, 10, 16); err == nil {
			return int(port)
		}
	}
	return answers.DefaultPort
}

// choice is the value that an agent's pod gives a flag, or empty if it gives none. A flag wins over the
// environment, and of a flag that is given twice the last.
func choice(pod *corev1.Pod, flag string) (value string) {
	variable := "PODFENCE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
	for _, c := range pod.Spec.Containers {
		for _, env := range c.Env {
			if env.Name == variable {
				value = env.Value
			}
		}
	}
	for _, c := range pod.Spec.Containers {
		words := slices.Concat(c.Command, c.Args)
		for i, word := range words {
			if after, is := strings.CutPrefix(word, "--"+flag+"="); is {
				value = after
			} else if word == "--"+flag && i+1 < len(words) {
				value = words[i+1]
			}
		}
	}
	return value
}

// Client finds the agents of a cluster, and asks them by port-forward. It may be used by several goroutines
// at once.
type Client struct {
	config   *rest.Config
	kinds    kubernetes.Interface
	metadata metadata.Interface
}

// New returns a client of a cluster.
func New(config *rest.Config) (*Client, error) {
	kinds, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("setting up a client of %s: %w", config.Host, err)
	}
	objects, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("setting up a client of %s for metadata: %w", config.Host, err)
	}
	return &Client{config: config, kinds: kinds, metadata: objects}, nil
}

// Agent is the agent that a pod is.
func (c *Client) Agent(pod *corev1.Pod) *Agent {
	to := c.kinds.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("portforward").URL()
	return newAgent(pod.Namespace+"/"+pod.Name, func(ctx context.Context) (way, error) { return forward(ctx, c.config, to, portOf(pod)) })
}

// Pods lists the agents' pods in a namespace (empty: in all), one for each node: where there are several, as
// while they are replaced, the one that runs. Whoever may create pods may give them any labels: an agent is on
// its node's network, which takes rights over the node, and agents in two namespaces are an error.
func (c *Client) Pods(ctx context.Context, namespace string) (map[string]*corev1.Pod, error) {
	list, err := c.kinds.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.AgentSelector})
	if err != nil {
		return nil, fmt.Errorf("listing the agents' pods (%s): %w", v1alpha1.AgentSelector, err)
	}
	byNode, in := map[string]*corev1.Pod{}, ""
	for i := range list.Items {
		pod := &list.Items[i]
		if !isAgent(pod) {
			continue
		}
		if in == "" {
			in = pod.Namespace
		}
		if pod.Namespace != in {
			return nil, fmt.Errorf("there are agents in namespace %s and in %s: name the one whose agents are meant by --agents-in", in, pod.Namespace)
		}
		if has := byNode[pod.Spec.NodeName]; pod.Spec.NodeName != "" && (has == nil || !runs(has) && runs(pod)) {
			byNode[pod.Spec.NodeName] = pod
		}
	}
	return byNode, nil
}

// runs reports whether a pod's containers run, and are to go on.
func runs(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil
}

// NodeOf is the name of the node that a pod is on; empty: none yet.
func (c *Client) NodeOf(ctx context.Context, namespace, name string) (string, error) {
	pod, err := c.kinds.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("getting pod %s/%s: %w", namespace, name, err)
	}
	return pod.Spec.NodeName, nil
}

// Nodes lists the names of the cluster's nodes, in order.
func (c *Client) Nodes(ctx context.Context) (names []string, err error) {
	list, err := c.metadata.Resource(corev1.SchemeGroupVersion.WithResource("nodes")).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	for _, node := range list.Items {
		names = append(names, node.Name)
	}
	slices.Sort(names)
	return names, nil
}
