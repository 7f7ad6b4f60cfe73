import io.spiffe.svid.jwtsvid.JwtSvid;
import io.spiffe.workloadapi.DefaultWorkloadApiClient;
import io.spiffe.workloadapi.DefaultX509Source;
import io.spiffe.workloadapi.WorkloadApiClient;
import io.spiffe.workloadapi.X509Context;
import java.time.Duration;
import java.util.HashSet;
import java.util.Set;

/** What java-spiffe, whose gRPC is grpc-java over Netty, gets from a Workload API: SVID, bundles and a token. */
public class Client {
    public static void main(String[] args) throws Exception {
        DefaultWorkloadApiClient.ClientOptions options =
            DefaultWorkloadApiClient.ClientOptions.builder().spiffeSocketPath(args[0]).build();
        DefaultX509Source.X509SourceOptions source = DefaultX509Source.X509SourceOptions.builder()
            .spiffeSocketPath(args[0]).initTimeout(Duration.ofSeconds(10)).build();
        try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient(options);
             DefaultX509Source watched = DefaultX509Source.newSource(source)) {
            X509Context held = client.fetchX509Context();
            client.fetchX509Bundles();
            client.fetchJwtBundles();
            JwtSvid token = client.fetchJwtSvid("test");
            JwtSvid validated = client.validateJwtSvid(token.getToken(), "test");
            Set<String> ids = new HashSet<>();
            ids.add(held.getDefaultSvid().getSpiffeId().toString());
            ids.add(token.getSpiffeId().toString());
            ids.add(validated.getSpiffeId().toString());
            ids.add(watched.getX509Svid().getSpiffeId().toString());
            if (ids.size() != 1) {
                throw new IllegalStateException(ids.toString());
            }
            System.out.println(ids.iterator().next());
        }
        System.exit(0);
    }
}
