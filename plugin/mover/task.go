package mover

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/kubectl-backup/kubectl-backup/plugin/blocks"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	// Device is where a mover's container has the device of a block volume.
	Device = "/dev/volume"
	// TaskFolder is where a mover's Secret is mounted.
	TaskFolder = "/task"
	// TaskFile is the task in it.
	TaskFile = TaskFolder + "/task.json"
)

// Direction is which way the bytes go.
type Direction string

const (
	Capture Direction = "Capture"
	Restore Direction = "Restore"
)

// Task is all that a mover in a Job has to know. It travels in a Secret, since
// most of it is secret.
type Task struct {
	Direction Direction `json:"direction"`
	// Block says that the volume is a device and no file system.
	Block bool `json:"block,omitempty"`
	// Remote is complete in itself: it refers to no Secret, to no file but those
	// of Files, and to no variable but those of Environment.
	Remote      v1alpha1.BackupRemoteSpec `json:"remote"`
	Environment map[string]string         `json:"environment,omitempty"`
	// Key opens the repository: the run has derived it once, for all movers.
	// Where a repository cannot be opened by it, Password is set instead.
	Key      json.RawMessage `json:"key,omitempty"`
	Password string          `json:"password,omitempty"`
	// Files are mounted beside the task, by name.
	Files map[string][]byte `json:"-"`

	// Volume is the line of what is captured.
	Volume v1alpha1.VolumeLine `json:"volume"`
	// Previous is the part (plugin/repository's VolumePart) of an earlier backup
	// of the same volume, or nothing.
	Previous json.RawMessage `json:"previous,omitempty"`
	// Blocks is where it is listed which blocks of a device hold data, if
	// anywhere.
	Blocks *blocks.Source `json:"blocks,omitempty"`
	// Part is the part that is restored.
	Part json.RawMessage `json:"part,omitempty"`
}

// DecodeTask reads what Encode wrote. A field that is not known here was
// written by another version.
func DecodeTask(b []byte) (Task, error) {
	var t Task
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return t, fmt.Errorf("read the task: %w (is the image of the mover of the same version as the plugin?)", err)
	}
	if t.Direction != Capture && t.Direction != Restore {
		return t, fmt.Errorf("read the task: no direction %q is known here (is the image of the mover of the same version as the plugin?)", t.Direction)
	}
	return t, nil
}

// Fault is the class of what ended a mover. What to do follows from it alone.
type Fault string

const (
	// Interrupted: the mover was ended from outside. Another one goes on.
	Interrupted Fault = "Interrupted"
	// Unreachable: the remote cannot be reached from the cluster, or not with
	// these credentials. The bytes have to travel as a stream.
	Unreachable Fault = "Unreachable"
	// Storage: the remote took or gave data and then no more.
	Storage Fault = "Storage"
	// WrongKey: the password does not open the repository.
	WrongKey Fault = "WrongKey"
	// Source: the volume cannot be read, or in a restore not be written.
	Source Fault = "Source"
	// Refused: no mover could be started: no right, no quota, no image, no node.
	Refused Fault = "Refused"
	// Broken: anything else; the mover is not of this version, for one.
	Broken Fault = "Broken"
)

// Result is what a mover says when it ends, as its termination message.
type Result struct {
	Fault Fault  `json:"fault,omitempty"`
	Error string `json:"error,omitempty"`
	// Part (plugin/repository's VolumePart) is what was captured.
	Part json.RawMessage `json:"part,omitempty"`
	// Files and Bytes count what the volume holds, Read what was read of it,
	// Stored what it added to the remote, over all attempts that said so.
	Files  int64 `json:"files,omitempty"`
	Bytes  int64 `json:"bytes,omitempty"`
	Read   int64 `json:"read,omitempty"`
	Stored int64 `json:"stored,omitempty"`
	// Whole says why all of a device was read although it was to be asked which
	// blocks hold data.
	Whole string `json:"whole,omitempty"`
	// Lost counts the paths whose content is missing or in doubt.
	Lost int `json:"lost,omitempty"`
	// Issues are the first of the issues; the repository has them all.
	Issues []string `json:"issues,omitempty"`

	// Attempts is how many movers it took, Node where the last one ran.
	Attempts int    `json:"-"`
	Node     string `json:"-"`
	// Warnings are about the work around it, such as what was not removed.
	Warnings []string `json:"-"`
}

// longestMessage is what Kubernetes keeps of a termination message, in bytes.
const longestMessage = 4096

// longestSentence is what one sentence is cut to, in bytes, where not all fits.
const longestSentence = 1000

func cut(sentence string) string {
	return string(bytes.ToValidUTF8([]byte(sentence[:longestSentence]), nil)) + " ..."
}

// Encode makes a result fit into a termination message.
func (r Result) Encode() []byte {
	for {
		b, err := json.Marshal(r)
		if err == nil && len(b) <= longestMessage {
			return b
		}
		switch {
		case err != nil:
			r = Result{Fault: Broken, Error: "encode the result: " + err.Error()}
		case len(r.Issues) > 0:
			r.Issues = r.Issues[:len(r.Issues)-1]
		case len(r.Error) > longestSentence:
			r.Error = cut(r.Error)
		case len(r.Whole) > longestSentence:
			r.Whole = cut(r.Whole)
		default:
			r = Result{Fault: Broken, Error: fmt.Sprintf("the result has %d bytes, and %d is what a mover can say", len(b), longestMessage)}
		}
	}
}

// DecodeResult reads a termination message.
func DecodeResult(message string) (Result, error) {
	var r Result
	if message == "" {
		return r, errors.New("the mover said nothing")
	}
	err := json.Unmarshal([]byte(message), &r)
	return r, err
}

// JobError says why a Job did not carry a volume.
type JobError struct {
	Fault Fault
	// Reason is a sentence for people.
	Reason string
}

func (e *JobError) Error() string { return e.Reason }

// FaultOf is the class of an error of RunJob, or Broken.
func FaultOf(err error) Fault {
	var e *JobError
	if errors.As(err, &e) {
		return e.Fault
	}
	return Broken
}

// Transport is how movers in the cluster reach the remote.
type Transport struct {
	// Task has the remote and what opens it; it is nil where no Job can reach
	// the remote, and Reason says why.
	Task   *Task
	Reason string
	// Required says that a volume which no Job can carry is not to be streamed.
	Required bool
	// Mover is the policy's.
	Mover v1alpha1.Mover
}
