// Streams of small messages of grpc-go, to a server behind agents: each upload and each download must arrive whole,
// although its reader pauses.
//
// Usage: streams LISTEN TARGET RUNS. It serves at LISTEN, calls TARGET, and prints a line for each direction and size;
// it exits with 1 where a stream was cut.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	messages = 10_000
	together = 10
	pause    = 300 * time.Millisecond
)

// receive reads a stream to its end, with a pause after every third of it, and returns how many messages came.
func receive(stream grpc.Stream) (int64, error) {
	for n := int64(0); ; n++ {
		if n%(messages/3) == 0 {
			time.Sleep(pause)
		}
		if err := stream.RecvMsg(new(wrapperspb.BytesValue)); err == io.EOF {
			return n, nil
		} else if err != nil {
			return n, err
		}
	}
}

func send(stream grpc.Stream, size int) error {
	message := wrapperspb.Bytes(make([]byte, size))
	for n := 0; n < messages; n++ {
		if err := stream.SendMsg(message); err != nil {
			return err
		}
	}
	return nil
}

func upload(_ any, stream grpc.ServerStream) error {
	n, err := receive(stream)
	if err != nil {
		return err
	}
	return stream.SendMsg(wrapperspb.Int64(n))
}

func download(_ any, stream grpc.ServerStream) error {
	asked := new(wrapperspb.Int64Value)
	if err := stream.RecvMsg(asked); err != nil {
		return err
	}
	return send(stream, int(asked.Value))
}

var service = grpc.ServiceDesc{
	ServiceName: "bench.Streams",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{
		{StreamName: "Up", Handler: upload, ClientStreams: true},
		{StreamName: "Down", Handler: download, ServerStreams: true},
	},
}

// call makes one stream and returns how many messages its reader got.
func call(to *grpc.ClientConn, direction int, size int) (int64, error) {
	context, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	context = metadata.AppendToOutgoingContext(context, "x-size", strconv.Itoa(size))
	desc := &service.Streams[direction]
	stream, err := to.NewStream(context, desc, "/bench.Streams/"+desc.StreamName)
	if err != nil {
		return 0, err
	}
	if desc.ServerStreams {
		if err := stream.SendMsg(wrapperspb.Int64(int64(size))); err != nil {
			return 0, err
		}
		if err := stream.CloseSend(); err != nil {
			return 0, err
		}
		return receive(stream)
	}
	// Where the send ends with EOF, the answer has the reason.
	if err := send(stream, size); err != nil && err != io.EOF {
		return 0, err
	}
	if err := stream.CloseSend(); err != nil {
		return 0, err
	}
	got := new(wrapperspb.Int64Value)
	err = stream.RecvMsg(got)
	return got.Value, err
}

func run() error {
	runs, err := strconv.Atoi(os.Args[3])
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	server.RegisterService(&service, struct{}{})
	go server.Serve(listener)
	to, err := grpc.NewClient("passthrough:///"+os.Args[2], grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("app"))
	if err != nil {
		return err
	}
	defer to.Close()
	cut := 0
	for direction, name := range []string{"up", "down"} {
		for _, size := range []int{1, 100} {
			whole := 0
			var lock sync.Mutex
			var all sync.WaitGroup
			places := make(chan struct{}, together)
			for n := 0; n < runs; n++ {
				places <- struct{}{}
				all.Go(func() {
					defer func() { <-places }()
					got, err := call(to, direction, size)
					lock.Lock()
					defer lock.Unlock()
					if err == nil && got == messages {
						whole++
					} else {
						cut++
						fmt.Fprintf(os.Stderr, "%s, %d bytes: %d of %d messages, %v\n", name, size, got, messages, err)
					}
				})
			}
			all.Wait()
			fmt.Printf("%s, messages of %d bytes: %d of %d streams whole\n", name, size, whole, runs)
		}
	}
	if cut > 0 {
		return fmt.Errorf("%d streams were cut", cut)
	}
	return nil
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: streams LISTEN TARGET RUNS")
		os.Exit(2)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
