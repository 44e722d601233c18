package commands

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/podfence/podfence/kubectl-podfence/agents"
	"github.com/podfence/podfence/policy"
)

// judging are the flags that verdicts depend on: what agents were told, and whether staged policies count.
type judging struct {
	podToNode string
	staged    bool
}

func (j *judging) flags(cmd *cobra.Command) {
	j.nodeFlag(cmd)
	cmd.Flags().BoolVar(&j.staged, "staged", false, "judge as if the staged policies were in force")
}

// nodeFlag is what agents were told, alone.
func (j *judging) nodeFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&j.podToNode, "pod-to-node", "", "what the agents' flag of this name says of traffic of pods to their own node: police or allow; without it, as the agents of the cluster have it, and police with --filename")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("pod-to-node", cobra.FixedCompletions([]string{"police", "allow"}, cobra.ShellCompDirectiveNoFileComp)))
}

// check refuses values that agents do not have.
func (j *judging) check() error {
	if j.podToNode != "" && j.podToNode != "police" && j.podToNode != "allow" {
		return fmt.Errorf("--pod-to-node is %q: it must be police or allow", j.podToNode)
	}
	return nil
}

// asStaged reports whether verdicts are those with the staged policies in force.
func (j *judging) asStaged() bool { return j.staged }

// options are the options of verdicts about objects.
func (j *judging) options(o *objects) policy.JudgeOptions {
	if j.podToNode != "" {
		return policy.JudgeOptions{AllowToNode: j.podToNode == "allow", StagedInForce: j.staged}
	}
	return policy.JudgeOptions{AllowToNode: o.Running && agents.AllowToNode(o.Pods), StagedInForce: j.staged}
}
