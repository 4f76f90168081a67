// Command harbour is all that its image holds: the server of an application
// that brings a kind of its own. It converts Berths between v1alpha1, where a
// length is called metres, and v1, where it is called length, and refuses at
// admission one that has none.
//
// It keeps nothing and asks the API server nothing.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	certs := flag.String("certs", "/certs", "directory with tls.crt and tls.key")
	address := flag.String("listen", ":8443", "where to listen")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := serve(ctx, *address, *certs); err != nil {
		fmt.Fprintln(os.Stderr, "harbour:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, address, certs string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/convert", answer(convert))
	mux.HandleFunc("/check", answer(check))
	mux.HandleFunc("/ready", func(http.ResponseWriter, *http.Request) {})
	server := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	err := server.ListenAndServeTLS(filepath.Join(certs, "tls.crt"), filepath.Join(certs, "tls.key"))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// review is a ConversionReview or an AdmissionReview: both are asked and
// answered in one document.
type review struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Request    *request `json:"request,omitempty"`
	Response   any      `json:"response,omitempty"`
}

type request struct {
	UID               string           `json:"uid"`
	DesiredAPIVersion string           `json:"desiredAPIVersion"`
	Objects           []map[string]any `json:"objects"`
	Object            map[string]any   `json:"object"`
}

func answer(decide func(request) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var asked review
		err := json.NewDecoder(r.Body).Decode(&asked)
		if err == nil && asked.Request == nil {
			err = errors.New("a review without a request")
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(review{APIVersion: asked.APIVersion, Kind: asked.Kind, Response: decide(*asked.Request)})
	}
}

func convert(r request) any {
	for _, o := range r.Objects {
		spec, _ := o["spec"].(map[string]any)
		from, to := "metres", "length"
		if strings.HasSuffix(r.DesiredAPIVersion, "/v1alpha1") {
			from, to = to, from
		}
		if length, ok := spec[from]; ok {
			spec[to] = length
			delete(spec, from)
		}
		o["apiVersion"] = r.DesiredAPIVersion
	}
	return map[string]any{"uid": r.UID, "result": map[string]any{"status": "Success"}, "convertedObjects": r.Objects}
}

func check(r request) any {
	spec, _ := r.Object["spec"].(map[string]any)
	if spec["length"] == nil && spec["metres"] == nil {
		return map[string]any{"uid": r.UID, "allowed": false, "status": map[string]any{"message": "a berth has a length"}}
	}
	return map[string]any{"uid": r.UID, "allowed": true}
}
