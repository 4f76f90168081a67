package mover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
)

const (
	// AnnotationOwner names the process that made it: host, boot, pid, start.
	AnnotationOwner = "kubectl-backup.io/owner"

	// abandoned is the age at which something temporary of another host is
	// taken for left behind: its waiting program has ended long before.
	abandoned = time.Hour
)

// thisProcess identifies this process beyond its pid, which is used again.
func thisProcess() string {
	host, _ := os.Hostname()
	return strings.Join([]string{host, bootID(), strconv.Itoa(os.Getpid()), processStart(os.Getpid())}, "/")
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

// leftBehind says whether the process that made a pod is gone.
func leftBehind(p *corev1.Pod, now time.Time) bool {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return true
	}
	owner := strings.Split(p.Annotations[AnnotationOwner], "/")
	if len(owner) == 4 {
		host, _ := os.Hostname()
		if pid, err := strconv.Atoi(owner[2]); err == nil && owner[0] == host && owner[1] == bootID() && owner[1] != "unknown" {
			return owner[3] == "" || processStart(pid) != owner[3]
		}
	}
	return now.Sub(p.CreationTimestamp.Time) > abandoned
}

// LeftBehind lists the temporary pods whose makers are gone. An empty
// namespace means all of them.
func LeftBehind(ctx context.Context, c *kube.Cluster, namespace string) ([]corev1.Pod, error) {
	list, err := c.Typed().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: kube.LabelTemporary + "=true", Limit: 500})
	if err != nil {
		return nil, err
	}
	var out []corev1.Pod
	for _, p := range list.Items {
		if leftBehind(&p, time.Now()) {
			out = append(out, p)
		}
	}
	return out, nil
}

// Sweep removes what dead runs left behind. A caller without the right to list
// pods everywhere has made none everywhere.
func Sweep(ctx context.Context, c *kube.Cluster, namespace string) error {
	pods, err := LeftBehind(ctx, c, namespace)
	if apierrors.IsForbidden(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range pods {
		if err := c.DeletePod(ctx, p.Namespace, p.Name, string(p.UID)); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("pod %s/%s: %w", p.Namespace, p.Name, err))
		}
	}
	return errors.Join(errs...)
}
