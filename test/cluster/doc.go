// Package cluster runs a real Kubernetes on one Linux machine: kube-apiserver,
// etcd, controller manager and scheduler, and nodes with kubelet, containerd,
// runc and kube-proxy. It needs no container engine and no network.
//
//	      switch: a bridge in a network namespace of its own
//	.-----------------------+-----------------------.
//	| 172.30.0.2, fd30::2   | 172.30.0.11, fd30::11 | 172.30.0.12 ...
//	cp                      node1                   node2
//	etcd, kube-apiserver    containerd, kubelet     containerd, kubelet
//	controller manager      kube-proxy              kube-proxy
//	scheduler               pods                    pods
//
// Each host of the cluster is a set of namespaces: network, process ids, mounts
// and host name. Its first process (Init, of the command podfence-cluster)
// mounts the host's file systems, starts its services, and starts again those
// that end. A node sees the machine's root file system below an overlay of its
// own, with its own /run, so that two nodes with the usual paths don't meet.
// Killing the first process ends all that the host ever started, and its mounts:
// Down needs to know nothing but the names of the network namespaces.
//
// The machine's own network namespace is not touched, and no sysctl of the
// machine's is set.
//
//	Up, Down              the whole cluster
//	Open                  one that is up
//	Cluster.Kubectl       kubectl as cluster admin
//	Cluster.RESTConfig    for client-go
//	Cluster.Exec          a command on a host
//	Cluster.RestartNode   the node's namespaces torn down and up
//	Cluster.Signal        a signal to a service of a host
//	Cluster.LoadImage     an image archive into every node's containerd
package cluster
