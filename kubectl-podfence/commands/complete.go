package commands

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
)

// A completion must not keep anybody waiting who types on: after completionTimeout it offers what it has,
// and of each kind no more than completionLimit objects.
const (
	completionTimeout = 3 * time.Second
	completionLimit   = 1000
)

// completable are the kinds that targets are completed of, by what people write. A pod needs no kind.
var completable = map[string]schema.GroupVersionResource{
	"pod":     {Version: "v1", Resource: "pods"},
	"node":    {Version: "v1", Resource: "nodes"},
	"svc":     {Version: "v1", Resource: "services"},
	"deploy":  {Group: "apps", Version: "v1", Resource: "deployments"},
	"sts":     {Group: "apps", Version: "v1", Resource: "statefulsets"},
	"ds":      {Group: "apps", Version: "v1", Resource: "daemonsets"},
	"rs":      {Group: "apps", Version: "v1", Resource: "replicasets"},
	"job":     {Group: "batch", Version: "v1", Resource: "jobs"},
	"cronjob": {Group: "batch", Version: "v1", Resource: "cronjobs"},
}

var namespaceResource = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}

// completeFlags adds completions for the flags that all commands have.
func (f *frame) completeFlags(root *cobra.Command) {
	cobra.CheckErr(root.RegisterFlagCompletionFunc("namespace", func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return f.complete(cmd, begun, func(c *completion) { c.offer("", namespaceResource, "", "") }), cobra.ShellCompDirectiveNoFileComp
	}))
	cobra.CheckErr(root.RegisterFlagCompletionFunc("context", func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return f.contexts(begun, false), cobra.ShellCompDirectiveNoFileComp
	}))
	cobra.CheckErr(root.RegisterFlagCompletionFunc("cluster", func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return f.contexts(begun, true), cobra.ShellCompDirectiveNoFileComp
	}))
}

// contexts are the contexts of the kubeconfig, or its clusters.
func (f *frame) contexts(begun string, clusters bool) (names []string) {
	config, err := f.config.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil
	}
	names = sortedNames(config.Contexts)
	if clusters {
		names = sortedNames(config.Clusters)
	}
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, begun) })
}

// completeEnds completes FROM and TO of commands that have these two arguments.
func (f *frame) completeEnds(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	isTo := len(args) == 1
	offered := f.complete(cmd, begun, func(c *completion) { c.target(begun, isTo) })
	directive := cobra.ShellCompDirectiveNoFileComp
	if len(offered) == 1 && strings.HasSuffix(offered[0], "/") || isTo {
		directive |= cobra.ShellCompDirectiveNoSpace // there is more to come
	}
	return offered, directive
}

// completeSubject completes the argument of commands that are about one pod, workload, namespace or node.
func (f *frame) completeSubject(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return f.completeEnds(cmd, args, begun)
}

// completePolicies completes policies, of which there may be any number.
func (f *frame) completePolicies(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	return f.complete(cmd, begun, func(c *completion) {
		kind, _, has := strings.Cut(begun, "/")
		switch {
		case !has:
			c.offered = append(c.offered, "cnp/", "ns/")
			c.offer("", namespaceResource, "", "/")
			c.offer("", networkPolicies, c.namespace, "")
		case kind == "ns":
			c.offer("ns/", namespaceResource, "", "")
		case kind == "cnp":
			c.offer("cnp/", clusterNetworkPolicies[0], "", "")
		default:
			c.offer(kind+"/", networkPolicies, kind, "")
		}
	}), cobra.ShellCompDirectiveNoFileComp
}

// completion is what is offered to whoever types.
type completion struct {
	ctx       context.Context
	metadata  metadata.Interface
	kinds     kubernetes.Interface
	namespace string
	offered   []string
}

// complete asks the cluster by what ask does, and returns what goes on as begun. A cluster that does not answer, or
// refuses, offers nothing: a completion has nowhere to say why.
func (f *frame) complete(cmd *cobra.Command, begun string, ask func(*completion)) []string {
	config, err := f.rest()
	if err != nil {
		return nil
	}
	c := &completion{}
	if c.namespace, _, err = f.namespace(); err != nil {
		return nil
	}
	if c.metadata, err = metadata.NewForConfig(config); err != nil {
		return nil
	}
	if c.kinds, err = kubernetes.NewForConfig(config); err != nil {
		return nil
	}
	var cancel context.CancelFunc
	c.ctx, cancel = context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	ask(c)
	c.offered = slices.DeleteFunc(c.offered, func(text string) bool { return !strings.HasPrefix(text, begun) })
	slices.Sort(c.offered)
	return slices.Compact(c.offered)
}

// offer offers the objects of a resource in a namespace, between two texts.
func (c *completion) offer(before string, resource schema.GroupVersionResource, namespace, after string) {
	list, err := c.metadata.Resource(resource).Namespace(namespace).List(c.ctx, metav1.ListOptions{Limit: completionLimit})
	if err != nil {
		return
	}
	for _, o := range list.Items {
		c.offered = append(c.offered, before+o.Name+after)
	}
}

// target offers what a target may go on with: a kind or a namespace, then names, then the ports of a Service.
func (c *completion) target(begun string, isTo bool) {
	if name, _, has := strings.Cut(begun, ":"); has {
		if isTo {
			c.ports(name)
		}
		return
	}
	parts := strings.Split(begun, "/")
	resource, kind := completable[parts[0]]
	switch {
	case len(parts) == 1:
		for name := range completable {
			if isTo || name != "svc" { // nothing comes from a Service
				c.offered = append(c.offered, name+"/")
			}
		}
		c.offered = append(c.offered, "ns/")
		c.offer("", namespaceResource, "", "/")
		c.offer("", completable["pod"], c.namespace, "")
	case parts[0] == "ns" && len(parts) == 2:
		c.offer("ns/", namespaceResource, "", "")
	case kind && len(parts) == 2:
		if parts[0] == "node" {
			c.offer("node/", resource, "", "")
			return
		}
		c.offer(parts[0]+"/", namespaceResource, "", "/")
		c.offer(parts[0]+"/", resource, c.namespace, "")
	case kind && len(parts) == 3:
		c.offer(parts[0]+"/"+parts[1]+"/", resource, parts[1], "")
	case len(parts) == 2:
		c.offer(parts[0]+"/", completable["pod"], parts[0], "")
	}
}

// ports offers the ports of a Service, by name and by number.
func (c *completion) ports(target string) {
	parts := strings.Split(target, "/")
	if parts[0] != "svc" || len(parts) < 2 {
		return
	}
	namespace, name := c.namespace, parts[1]
	if len(parts) == 3 {
		namespace, name = parts[1], parts[2]
	}
	service, err := c.kinds.CoreV1().Services(namespace).Get(c.ctx, name, metav1.GetOptions{})
	if err != nil {
		return
	}
	for _, port := range service.Spec.Ports {
		protocol := ""
		if port.Protocol != "TCP" {
			protocol = "/" + string(port.Protocol)
		}
		c.offered = append(c.offered, target+":"+strconv.Itoa(int(port.Port))+protocol)
		if port.Name != "" {
			c.offered = append(c.offered, target+":"+port.Name+protocol)
		}
	}
}

// sortedNames are the keys of a part of a kubeconfig.
func sortedNames[T any](of map[string]T) (names []string) {
	for name := range of {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
