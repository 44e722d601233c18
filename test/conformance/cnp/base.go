package cnp

import (
	"context"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// withoutServers is a client that leaves out, of the pods that it is to create, the
// containers that serve SCTP: where they can't, they end at once, and the pods are never
// ready, which the suite waits for.
type withoutServers struct {
	client.Client
	log func(format string, args ...any)
}

func (c withoutServers) Create(ctx context.Context, object client.Object, options ...client.CreateOption) error {
	if err := c.drop(object); err != nil {
		return err
	}
	return c.Client.Create(ctx, object, options...)
}

func (c withoutServers) Update(ctx context.Context, object client.Object, options ...client.UpdateOption) error {
	if err := c.drop(object); err != nil {
		return err
	}
	return c.Client.Update(ctx, object, options...)
}

// drop takes the containers that serve SCTP out of a StatefulSet, as which the suite has
// its pods.
func (c withoutServers) drop(object client.Object) error {
	set, ok := object.(*unstructured.Unstructured)
	if !ok || set.GetKind() != "StatefulSet" {
		return nil
	}
	path := []string{"spec", "template", "spec", "containers"}
	containers, _, err := unstructured.NestedSlice(set.Object, path...)
	if err != nil {
		return err
	}
	var kept []any
	for _, container := range containers {
		if name := servesSCTP(container); name != "" {
			c.log("left out, as the kernel has no SCTP sockets: the container %s of %s/%s", name, set.GetNamespace(), set.GetName())
			continue
		}
		kept = append(kept, container)
	}
	return unstructured.SetNestedSlice(set.Object, kept, path...)
}

// servesSCTP returns the name of a container of which agnhost is told, by its environment,
// to serve SCTP; or else nothing.
func servesSCTP(container any) string {
	fields, _ := container.(map[string]any)
	env, _, _ := unstructured.NestedSlice(fields, "env")
	for _, variable := range env {
		v, _ := variable.(map[string]any)
		if key, _ := v["name"].(string); strings.HasPrefix(key, "SERVE_SCTP_PORT_") {
			name, _ := fields["name"].(string)
			return name
		}
	}
	return ""
}
