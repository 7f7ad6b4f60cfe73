// What go-spiffe gets from a Workload API: SVID, bundles and a token.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(os.Args[1]))
	must(err)
	held, err := client.FetchX509Context(ctx)
	must(err)
	id := held.DefaultSVID().ID
	token, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "test"})
	must(err)
	validated, err := client.ValidateJWTSVID(ctx, token.Marshal(), "test")
	must(err)
	if token.ID != id || validated.ID != id {
		log.Fatal(id, token.ID, validated.ID)
	}
	fmt.Println(id)
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
