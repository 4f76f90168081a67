package mover

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
)

// AnnotationOwner names the process that made it: host, boot, pid, start.
const AnnotationOwner = "kubectl-backup.io/owner"

// Mark makes an object one of ours: it is found, and removed, by whoever comes
// after this process has ended without doing so itself.
func Mark(m *metav1.ObjectMeta) {
	if m.Labels == nil {
		m.Labels = map[string]string{}
	}
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Labels[kube.LabelTemporary] = "true"
	m.Annotations[AnnotationOwner] = Owner()
}

// CutMark is what an application's claim gets for as long as a group snapshot
// selects it by a label; value tells the groups apart.
func CutMark(value string) (labels, annotations map[string]string) {
	return map[string]string{kube.LabelCut: value},
		map[string]string{kube.AnnotationCutOwner: Owner() + " " + time.Now().UTC().Format(time.RFC3339)}
}

// Owner identifies this process beyond its pid, which is used again.
var Owner = sync.OnceValue(func() string {
	host, _ := os.Hostname()
	return strings.Join([]string{host, bootID(), strconv.Itoa(os.Getpid()), processStart(os.Getpid())}, "/")
})

// life is what is known of the process that made something.
type life int

const (
	unknown life = iota // another host's, or nobody's
	alive
	gone
)

// lifeOf looks for the process that an owner annotation names.
func lifeOf(owner string) life {
	parts := strings.Split(owner, "/")
	if len(parts) != 4 {
		return unknown
	}
	host, _ := os.Hostname()
	pid, err := strconv.Atoi(parts[2])
	if err != nil || parts[0] != host || parts[1] != bootID() || parts[1] == "unknown" {
		return unknown
	}
	if parts[3] != "" && processStart(pid) == parts[3] {
		return alive
	}
	return gone
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// processStart is the start time of a process in clock ticks since boot, or
// empty where there is no such process (or no /proc).
func processStart(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The second field is in parentheses and may hold anything.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}
