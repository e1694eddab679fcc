// Command manifests decodes Kubernetes manifests strictly against the API's own types: an unknown field, a field twice, a
// value of another type or a kind that the API does not have is an error, and so is a pod that the Pod Security Standard
// "baseline" does not admit.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

func main() {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, nodev1.AddToScheme} {
		if err := add(scheme); err != nil {
			fail(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, name := range os.Args[1:] {
		text, err := os.ReadFile(name)
		if err != nil {
			fail(err)
		}
		reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
		for {
			document, err := reader.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				fail(fmt.Errorf("%s: %w", name, err))
			}
			object, kind, err := decoder.Decode(document, nil, nil)
			if err != nil {
				fail(fmt.Errorf("%s: %w", name, err))
			}
			if pod, ok := object.(*corev1.Pod); ok {
				if err := baseline(pod); err != nil {
					fail(fmt.Errorf("%s: %w", name, err))
				}
			}
			fmt.Printf("%s %s\n", name, kind.Kind)
		}
	}
}

// baseline says what the Pod Security Standard of that name, in its latest version, does not admit.
func baseline(pod *corev1.Pod) error {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	level := api.LevelVersion{Level: api.LevelBaseline, Version: api.LatestVersion()}
	result := policy.AggregateCheckResults(evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec))
	if !result.Allowed {
		return errors.New(result.ForbiddenDetail())
	}
	return nil
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
