package plugin

import (
	"encoding/json"
	"fmt"
	"strings"
)

// unserved is what a pod asks of the network by Kubernetes' API and nobody here provides, each
// with the reason. Runtimes tell it to the plugins of a list that declare the capability (CNI
// conventions, "Dynamic Plugin specific fields"), and podfence's agent makes podfence's plugin
// declare the capabilities that no other plugin declares. What can't be read is not reported; the
// pod is none the worse for that.
func (c *Config) unserved() (all []string) {
	var asked struct {
		PortMappings []struct {
			HostPort, ContainerPort int
			HostIP, Protocol        string
		}
		Bandwidth map[string]any
	}
	if json.Unmarshal(c.RuntimeConfig, &asked) != nil {
		return nil
	}
	if c.NoHostPort != "" && len(asked.PortMappings) > 0 {
		var ports []string
		for _, m := range asked.PortMappings {
			port := fmt.Sprintf("%d/%s", m.HostPort, strings.ToUpper(m.Protocol))
			if m.HostIP != "" {
				port += " of hostIP " + m.HostIP
			}
			ports = append(ports, port)
		}
		all = append(all, fmt.Sprintf("hostPort %s does nothing: %s", strings.Join(ports, ", "), c.NoHostPort))
	}
	if len(asked.Bandwidth) > 0 {
		all = append(all, "the annotations kubernetes.io/ingress-bandwidth and kubernetes.io/egress-bandwidth do nothing: podfence does not limit bandwidth")
	}
	return all
}
