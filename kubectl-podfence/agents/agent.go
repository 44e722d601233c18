package agents

import "time"

// StatusPath is where an agent says how it is.
const StatusPath = "/v1/status"

// Status is what an agent says of itself and of its node.
type Status struct {
	Version   string    `json:"version"`
	Node      string    `json:"node"`
	StartTime time.Time `json:"startTime"`
	// Mode is how pods are connected: the agent's --cni. PodToNode is its --pod-to-node.
	Mode      string `json:"mode"`
	PodToNode string `json:"podToNode"`
	// Ready: the node is as podfence promises. If not, Conditions say why.
	Ready      bool        `json:"ready"`
	Conditions []Condition `json:"conditions,omitempty"`
	// OwnsTable: nobody else can change podfence's tables, which takes Linux 6.9.
	OwnsTable bool `json:"ownsTable"`
	// LastCommit is when the kernel last took a transaction, and CommitSeconds how long that took. Zero:
	// there was none yet.
	LastCommit    time.Time `json:"lastCommit,omitzero"`
	CommitSeconds float64   `json:"commitSeconds"`
	// Pods are this node's; Policies and ClusterPolicies are those that the agent knows.
	Pods            int `json:"pods"`
	Policies        int `json:"policies"`
	ClusterPolicies int `json:"clusterPolicies"`
	// Problems are what of policies is not enforced as it is written.
	Problems []Problem `json:"problems,omitempty"`
	// Repairs is how often the agent has undone what others did to its tables, the last time at LastRepair.
	Repairs    int       `json:"repairs"`
	LastRepair time.Time `json:"lastRepair,omitzero"`
	// Waiting are the pods of this node whose rules are not in the kernel yet.
	Waiting []Waiting `json:"waiting,omitempty"`
}

// Condition is one way in which a node is not as podfence promises.
type Condition struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

// Problem is what of a policy cannot be enforced, and why.
type Problem struct {
	Policy Policy `json:"policy"`
	// Field is the path of the field, such as "spec.ingress[0].from[1]"; empty: it is about the whole policy.
	Field  string `json:"field,omitempty"`
	Reason string `json:"reason"`
	// Refused: the kernel does not take the policy, which isolates its pods and allows nothing. Else a part
	// of it cannot be read, which allows nothing.
	Refused bool `json:"refused,omitempty"`
}

// Policy names a policy.
type Policy struct {
	Kind      string `json:"kind"` // NetworkPolicy or ClusterNetworkPolicy
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// String is the policy as error messages and tables name it.
func (p Policy) String() string {
	if p.Namespace == "" {
		return p.Kind + " " + p.Name
	}
	return p.Kind + " " + p.Namespace + "/" + p.Name
}

// Waiting is a pod that waits, and for what.
type Waiting struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Reason    string `json:"reason"`
}
